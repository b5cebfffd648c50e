"""All that the ledger asks of a file system: exclusive creation, appending by one writer, reading, listing.

No locks, no links, no renames of shared files. Tests put a file system here that fails.
"""

from __future__ import annotations

import os
from pathlib import Path


class UnwrittenError(OSError):
    """A file was created, and then its first line could not be written: the disk is full."""


class LedgerFiles:
    """The plain file system."""

    def create(self, path: Path, first: bytes) -> int | None:
        """Create a file that is not there and append `first` to it; its handle. None: somebody else has.

        Raises:
            UnwrittenError: it is there now, and empty.
            OSError: it cannot be created.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
        try:
            handle = os.open(path, flags, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self.create(path, first)
        except FileExistsError:
            return None
        try:
            self.append(handle, first)
        except OSError as error:
            self.close(handle)
            raise UnwrittenError(error.errno, error.strerror, str(path)) from error
        return handle

    def append(self, handle: int, data: bytes) -> None:
        """Append to a file that only this process writes to.

        Raises:
            OSError: not, or not wholly, written.
        """
        if os.write(handle, data) != len(data):
            raise OSError("only a part was written")

    def sync(self, handle: int) -> None:
        """Have what was appended on the disk before what is written after it."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        os.close(handle)

    def note(self, path: Path) -> None:
        """Leave an empty file; one that is there already says the same."""
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o644))

    def overwrite(self, path: Path, line: bytes) -> None:
        """Write a line over the beginning of a small file: what is behind its first line end means
        nothing."""
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return self.overwrite(path, line)
        try:
            self.append(handle, line)
        finally:
            self.close(handle)

    def remove(self, path: Path) -> None:
        """Take a file away that only this process writes to."""
        path.unlink(missing_ok=True)

    def read(self, path: Path) -> bytes | None:
        """The content of a file; None where there is none."""
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None

    def exists(self, path: Path) -> bool:
        """Whether there is such a file."""
        return path.exists()

    def names(self, folder: Path) -> list[str]:
        """Names of the files in a folder, in no order; none where there is no folder."""
        try:
            return os.listdir(folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
