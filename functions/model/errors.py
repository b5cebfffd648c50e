"""The exceptions of the data side.

PetavoxelError
├── AcquisitionError     a manifest, tile list or tile image is not what it says it is
│   └── UnsafePathError  a path in outside metadata leaves its folder
├── VolumeError          an array is missing, half-written or of another shape
├── TaskError            a task document does not parse, or names what does not exist
├── UpstreamError        a step was started before what it reads was finished
├── MemoryBudgetError    a unit of work needs, or asked for, more memory than its worker has
├── ModelError           network weights are missing or do not fit the data
└── WorkerError          a worker, or the site it runs at, cannot compute any unit

Expected failures of single tiles, pairs or subvolumes are `Problem` values in results (`functions.tasks`);
these exceptions are for what makes a step as a whole impossible. Every message ends with a remedy.
"""

from __future__ import annotations

import errno
from pathlib import Path

SITE_ERRORS = {
    errno.ENOSPC: "make room on scratch",
    errno.EDQUOT: "make room on scratch, or have the quota raised",
    errno.EROFS: "have scratch mounted for writing",
    errno.EACCES: "let the workers' account write to the work root",
    errno.EPERM: "let the workers' account write to the work root",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "raise the node's limit of open files",
    errno.ESTALE: "have scratch mounted anew on this node",
    errno.ENOTCONN: "have scratch mounted anew on this node",
    errno.ESHUTDOWN: "have scratch mounted anew on this node",
}
"""What the operating system says of a site whose files may all be whole, and what to do about it."""


class PetavoxelError(Exception):
    """Base of all errors that a user can do something about; `remedy` says what."""

    code = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.remedy = remedy


class AcquisitionError(PetavoxelError):
    """An acquisition folder does not hold what it should; the message names file and field."""

    code = "acquisition"


class UnsafePathError(AcquisitionError):
    """A path taken from outside metadata is absolute or climbs out of its root."""

    code = "unsafe_path"


class VolumeError(PetavoxelError):
    """An array of the run directory is missing, truncated or of another shape than its reference says."""

    code = "volume"


class TaskError(PetavoxelError):
    """A task document does not parse; the message names the field."""

    code = "task"


class UpstreamError(PetavoxelError):
    """Units of an earlier step are not finished, so this step cannot start."""

    code = "upstream"


class MemoryBudgetError(PetavoxelError):
    """A unit of work does not fit the memory of a worker; the message names step, unit and budget."""

    code = "memory"


class ModelError(PetavoxelError):
    """Network weights are missing, damaged or do not fit the volume."""

    code = "model"


class WorkerError(PetavoxelError):
    """A worker, or the site it runs at, cannot compute any unit: a full disk, a node that is broken."""

    code = "worker"


def is_of_the_site(error: Exception) -> bool:
    """Whether a file could not be read for a reason that says nothing of its content."""
    return isinstance(error, OSError) and error.errno in SITE_ERRORS


def safe_join(root: Path, relative: str, *, field: str) -> Path:
    """Return `root / relative` if it stays under `root`.

    Windows separators are accepted, since microscopes write them. Symbolic links are resolved first, so a
    link that leads out of the folder is refused too.

    Raises:
        UnsafePathError: `relative` is empty, absolute, has a drive letter, or leaves `root`.
    """
    text = relative.replace("\\", "/")
    remedy = "correct the path in the metadata; it must stay inside the acquisition folder"
    if not text or "\0" in text or text.startswith("/") or (len(text) > 1 and text[1] == ":"):
        raise UnsafePathError(f"{field}: path {relative!r} is not relative", remedy=remedy)
    base = root.resolve()
    path = (base / text).resolve()
    if not path.is_relative_to(base) or path == base:
        raise UnsafePathError(f"{field}: path {relative!r} leaves {root.name}/", remedy=remedy)
    return path
