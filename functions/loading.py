"""Load the modules of a step without the garbage collector looking on."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any


@contextmanager
def uncollected() -> Iterator[None]:
    """What is loaded meanwhile is no garbage, nor will it be: the collector passes it over, now and later.

    Loading torch makes so many objects that it would go through all of them again and again, for a fifth of a
    second, and once more whenever a section is solved.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def step_module(step: str) -> Any:
    """The module of a step, loaded when it is first asked for: planning does not load torch."""
    name = f"functions.{step}"
    if name not in sys.modules:
        with uncollected():
            import_module(name)
    return sys.modules[name]
