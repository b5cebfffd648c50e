"""What a finished unit wrote turns out to be damaged: then it is not finished, and is computed again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from functions.model.errors import VolumeError
from functions.store.run import Run
from functions.tasks import StepName


@contextmanager
def computed_again(run: Run, step: StepName, unit: str) -> Iterator[None]:
    """Around reading what `unit` wrote; it loses its mark if that is missing or damaged.

    Raises:
        VolumeError: it is; run the step again, and the unit is computed anew.
    """
    try:
        yield
    except VolumeError as error:
        run.cell(step).forget(unit)
        message = str(error).removesuffix(f"; {error.remedy}")
        raise VolumeError(message, remedy=f"start the run at {step}, which computes {unit} again") from error
