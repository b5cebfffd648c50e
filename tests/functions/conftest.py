"""Fixtures that several modules share."""

from __future__ import annotations

import pytest

from functions import finish
from functions.store.run import Run
from tests.functions.finished import described_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with its bundle, made once; tests that damage it take a copy."""
    run = described_run(tmp_path_factory.mktemp("finished"))
    finish.perform(run)
    return run
