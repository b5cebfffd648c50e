"""Steps are loaded when they are asked for, and the collector is as it was."""

from __future__ import annotations

import gc
import subprocess
import sys

import pytest

from functions.loading import step_module, uncollected


def test_what_is_loaded_is_passed_over_and_the_collector_goes_on() -> None:
    gc.unfreeze()
    with uncollected():
        assert not gc.isenabled()
        made = [[k] for k in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= len(made)
    gc.unfreeze()


def test_a_module_that_cannot_be_loaded_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), uncollected():
        step_module("no_such_step")
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
        gc.unfreeze()


def test_a_step_is_loaded_once_and_nothing_is_frozen_again() -> None:
    code = (
        "import gc; from functions.loading import step_module as load; a = load('plan'); gc.unfreeze();"
        "assert load('plan') is a and a.__name__ == 'functions.plan' and gc.get_freeze_count() == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
