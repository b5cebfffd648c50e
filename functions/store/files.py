"""Whole files or none: atomic writes, checksums and fingerprints."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from functions.model.errors import VolumeError, is_of_the_site
from functions.store.traffic import note_read

DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    EOFError,
    AttributeError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What numpy and zipfile raise on an array or archive with wrong bytes, and on one without an array."""
FINGERPRINT_LENGTH = 16


@contextmanager
def atomic_path(path: Path, *, keep_older: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling (nothing there yet) that becomes `path` when the block ends without error.

    The caller may create a file or a folder there. A folder replaces an older folder of that name; with
    `keep_older` it gives way to one, also to one that another process put there meanwhile.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield partial
        if partial.is_dir():
            if path.exists() and not keep_older:
                shutil.rmtree(path)
        else:
            with open(partial, "rb") as handle:
                os.fsync(handle.fileno())
        try:
            os.replace(partial, path)
        except OSError:  # a folder that is not empty is never replaced
            if not (keep_older and path.is_dir()):
                raise
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


@contextmanager
def reading_arrays(
    path: Path, *, remedy: str = "remove its cell, and run the step that writes it"
) -> Iterator[None]:
    """Around reading a file of arrays: turns all that damaged bytes raise into one error.

    Raises:
        VolumeError: the file, or an array of it, is missing or damaged.
    """
    try:
        yield
    except FileNotFoundError:
        raise VolumeError(f"{path}: no such file", remedy="run the step that writes it") from None
    except DAMAGE as error:
        if is_of_the_site(error):
            raise
        raise VolumeError(f"{path}: damaged ({error})", remedy=remedy) from None


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(path) as partial:
        partial.write_bytes(data)


def write_json(path: Path, document: object, *, indent: int | None = 1) -> None:
    """Write a JSON document atomically, keys sorted, so that equal content means equal bytes.

    Documents of many numbers are for programs: without an indent they take a tenth of the time.
    """
    write_bytes(path, (json.dumps(document, indent=indent, sort_keys=True) + "\n").encode())


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as handle:
        note_read(stored=os.fstat(handle.fileno()).st_size)
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(*parts: object) -> str:
    """Short stable hash of JSON-ready values; what a done mark and a cell's name are keyed by."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:FINGERPRINT_LENGTH]
