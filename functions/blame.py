"""Whose fault an error is: the unit's, which is tried again and then put aside, or its worker's, which ends.

A full disk, a wrong environment or an earlier step that is missing meets every unit alike: to blame the units
would put all of them into quarantine.
"""

from __future__ import annotations

import sys
import traceback

from functions.model.errors import SITE_ERRORS, AcquisitionError, PetavoxelError, VolumeError
from functions.store.marks import Attempt

TRACEBACK_CHARACTERS = 8000
ACCELERATOR_FULL = ("CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""How libraries below torch say it."""
SMALLER = (
    "set segment.at_once, segment.batch or segment.subvolume_zyx_px smaller, or have fewer workers share the"
    " accelerator"
)


def remedy_of(error: Exception, *, expendable: bool) -> str | None:
    """What to do about an error that is not the unit's; None when it is the unit's.

    `expendable`: whether the steps behind live without the unit. What a unit reads may be damaged (a chunk, a
    tile): then it is its fault if it can be left out, and else a person has to mend it, at once.
    """
    if is_accelerator_full(error):
        return SMALLER
    if isinstance(error, PetavoxelError):
        its_data = isinstance(error, (VolumeError, AcquisitionError))
        return None if expendable and its_data else ""  # its text ends with the remedy
    if isinstance(error, ImportError):
        return "install the package in the workers' environment"
    if isinstance(error, OSError) and error.errno in SITE_ERRORS:
        return SITE_ERRORS[error.errno]
    return None


def is_accelerator_full(error: BaseException) -> bool:
    """Whether an accelerator's memory was refused, now or in what led to this error: the end of a graph's
    capture hides what ended it. torch is not loaded to ask: without it nobody raised that."""
    torch = sys.modules.get("torch")
    seen: BaseException | None = error
    while seen is not None:
        if torch is not None and isinstance(seen, torch.OutOfMemoryError):
            return True
        if isinstance(seen, RuntimeError) and any(word in str(seen) for word in ACCELERATOR_FULL):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def attempt_of(error: Exception, *, worker: str) -> Attempt:
    """What is kept of an attempt that failed."""
    text = "".join(traceback.format_exception(error))
    line = str(error).splitlines()
    return Attempt(
        worker=worker,
        error=f"{type(error).__name__}: {line[0] if line else ''}"[:500],
        traceback=text[-TRACEBACK_CHARACTERS:],
    )
