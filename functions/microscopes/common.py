"""What all adapters share: their result, safe paths, gaps along z, and errors that name file and field."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from functions.model.acquisition import Acquisition, Finding
from functions.model.base import Document, describe
from functions.model.errors import AcquisitionError, safe_join

Model = TypeVar("Model", bound=BaseModel)

MAX_MISSING_SECTIONS = 100_000
MAX_TEXT_BYTES = 1 << 20


class ReadAcquisition(Document):
    """What an adapter made of a folder, and what it noticed on the way."""

    acquisition: Acquisition
    findings: tuple[Finding, ...] = ()


class PathGuard:
    """`safe_join` for many paths of one folder: each parent folder is resolved once, not once a tile."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._prefix = f"{root}{os.sep}"
        self._parents: set[str] = set()

    def check(self, relative: str, *, field: str) -> str:
        """The path with forward slashes, relative to the root.

        Raises:
            UnsafePathError: it is absolute, has a drive letter, or leaves the root, also through a link.
        """
        text = relative.replace("\\", "/")
        parent, name = posixpath.split(text)
        odd = (
            not name
            or name in (".", "..")
            or ".." in parent
            or "\0" in text
            or text[0] == "/"
            or ":" in text[:2]
        )
        if odd or (parent and parent not in self._parents):
            path = safe_join(self._root, relative, field=field)
            if ".." in text:
                return path.relative_to(self._root.resolve()).as_posix()
            self._parents.add(parent)
        if os.path.islink(self._prefix + text):
            safe_join(self._root, relative, field=field)
        return posixpath.normpath(text)


def read_text(path: Path, *, limit: int = MAX_TEXT_BYTES) -> str:
    """A small text file in UTF-8, with or without byte order mark.

    Raises:
        AcquisitionError: missing, not UTF-8, or larger than `limit` bytes.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(limit + 1)
    except OSError as error:
        raise AcquisitionError(
            f"{path}: cannot be read ({error.strerror})", remedy="transfer the file again"
        ) from None
    if len(data) > limit:
        raise AcquisitionError(f"{path}: more than {limit} bytes", remedy="this is not the expected file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AcquisitionError(
            f"{path}: byte {error.start} is not UTF-8 text", remedy="save the file as UTF-8"
        ) from None


def build(model: type[Model], values: dict[str, object], *, source: str) -> Model:
    """A model from values out of a file.

    Raises:
        AcquisitionError: naming `source` and the fields that do not fit.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise AcquisitionError(f"{source}: {describe(error)}", remedy="correct the named field") from None


def missing_between(present: Iterable[int], first: int, end: int, *, source: str) -> tuple[int, ...]:
    """z indices of [first, end) that are not present.

    Raises:
        AcquisitionError: so many are missing that an index must be wrong.
    """
    known = set(present)
    if end - first - len(known) > MAX_MISSING_SECTIONS:
        raise AcquisitionError(
            f"{source}: section: {end - first - len(known)} of the indices {first} to {end - 1} are missing",
            remedy="correct the section index that is out of line",
        )
    return tuple(z for z in range(first, end) if z not in known)


def identifier(name: str) -> str:
    """A folder's name as an acquisition id."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", name)[:100].strip("._-")
    return text or "acquisition"
