"""The Transfer action providers: a real copy with checksum verification, and stat.

A file appears at its destination whole or not at all. A folder whose destination does not exist yet is built
in a hidden sibling `.<name>.partial` and renamed at the end, so nothing half-copied is taken for whole; an
interrupted copy goes on there. A file that is there with equal size and SHA-256 is not copied again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from flows.errors import ActionError
from flows.local.actions import Json, Progress

CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Collections:
    """Root folders by collection id."""

    roots: Mapping[str, Path]

    def resolve(self, collection: str, path: str, *, field: str) -> Path:
        """The file or folder of a collection path, links resolved.

        Raises:
            ActionError: no such collection, or a path (or a link on it) that leaves its root.
        """
        if collection not in self.roots:
            raise ActionError(
                f"{field}: collection {collection} is not at this site", remedy="check the site"
            )
        root = self.roots[collection].resolve()
        if "\0" in path or ".." in path.split("/"):
            raise ActionError(f"{field}: {path!r} leaves its collection", remedy="use a path without ..")
        resolved = (root / path.lstrip("/")).resolve()
        if not resolved.is_relative_to(root):
            raise ActionError(
                f"{field}: {path!r} leaves its collection by a link", remedy="use its real place"
            )
        return resolved


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    source: Path
    destination: Path
    recursive: bool


@dataclass(slots=True)
class _Tally:
    files: int = 0
    transferred: int = 0
    skipped: int = 0
    bytes: int = 0


def transfer(collections: Collections, body: Json, progress: Progress) -> Json:
    """Copy the items of a Transfer body; returns what the service's task document tells.

    Raises:
        ActionError: paths that leave a collection or a source folder, or are not there.
        OSError: the copy differs from its source, or the disk fails.
    """
    items = [
        _Item(
            source=collections.resolve(
                body["source_endpoint"], entry["source_path"], field=f"DATA[{i}].source_path"
            ),
            destination=collections.resolve(
                body["destination_endpoint"], entry["destination_path"], field=f"DATA[{i}].destination_path"
            ),
            recursive=bool(entry.get("recursive", False)),
        )
        for i, entry in enumerate(body["DATA"])
    ]
    tally = _Tally()
    rules = body.get("filter_rules", [])
    listings = [[file for file in _files(item) if _wanted(file.name, rules)] for item in items]
    progress.total = sum(len(files) for files in listings)
    for item, files in zip(items, listings, strict=True):
        _copy_item(item, files, tally, progress)
    return {
        "files": tally.files,
        "files_transferred": tally.transferred,
        "files_skipped": tally.skipped,
        "bytes_transferred": tally.bytes,
        "fatal_error": None,
        "nice_status": "OK",
    }


def _files(item: _Item) -> Iterator[Path]:
    """Paths of the files of an item, relative to it, in a fixed order; `.` for a single file."""
    if not item.source.exists():
        raise ActionError(f"{item.source}: does not exist", remedy="check the source path")
    if item.source.is_dir() != item.recursive:
        kind = "a folder" if item.source.is_dir() else "not a folder"
        raise ActionError(f"{item.source}: {kind}", remedy="set recursive for folders, and only for them")
    if not item.recursive:
        yield Path()
        return
    root = item.source.resolve()
    for folder, names, files in os.walk(root, followlinks=False):
        names.sort()
        for name in sorted([*files, *(n for n in names if (Path(folder) / n).is_symlink())]):
            path = Path(folder) / name
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                raise ActionError(
                    f"{path}: a link that leaves the folder", remedy="put the file itself there"
                )
            if path.is_dir():
                raise ActionError(f"{path}: a link to a folder", remedy="put the folder itself there")
            if path.is_file():
                yield path.relative_to(root)


def _wanted(name: str, rules: Sequence[Json]) -> bool:
    """Whether Transfer's filter rules let a file of a folder through: the first rule that matches its name
    says so. A file that is named itself (here `.`, without a name) is always wanted."""
    for rule in rules:
        if name and rule.get("type", "file") == "file" and fnmatchcase(name, rule["name"]):
            return bool(rule["method"] == "include")
    return True


def _copy_item(item: _Item, files: list[Path], tally: _Tally, progress: Progress) -> None:
    """Copy one item: into a hidden sibling first where a folder is new, else file by file in place."""
    new_folder = item.recursive and not item.destination.exists()
    target = item.destination
    if new_folder:
        target = target.with_name(f".{target.name}.partial")
    if item.recursive:
        target.mkdir(parents=True, exist_ok=True)
    for relative in files:
        if progress.stop.is_set():
            raise ActionError("the transfer was cancelled", remedy="start the run again to go on")
        source, destination = (item.source / relative, target / relative) if item.recursive else (
            item.source, target
        )  # fmt: skip
        _copy_file(source, destination, tally)
        tally.files += 1
        progress.done += 1
    if new_folder:
        _drop_strangers(target, set(files))
        os.replace(target, item.destination)


def _drop_strangers(folder: Path, expected: set[Path]) -> None:
    """Remove what an earlier, interrupted copy left and the source no longer has."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(folder) not in expected:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def _copy_file(source: Path, destination: Path, tally: _Tally) -> None:
    if _same(source, destination):
        tally.skipped += 1
        return
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(partial, "wb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            writer.write(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    if _sha256(partial) != digest.hexdigest():
        partial.unlink()
        raise OSError(f"{destination}: the copy's checksum differs from {source}; check the disk, run again")
    shutil.copystat(source, partial)
    os.replace(partial, destination)
    tally.transferred += 1
    tally.bytes += destination.stat().st_size


def _same(source: Path, destination: Path) -> bool:
    return (
        destination.is_file()
        and destination.stat().st_size == source.stat().st_size
        and _sha256(destination) == _sha256(source)
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def stat(collections: Collections, body: Json, progress: Progress) -> Json:
    """The facts of one file or folder, as Transfer's stat tells them.

    Raises:
        ActionError: it does not exist.
    """
    path = collections.resolve(body["endpoint_id"], body["path"], field="path")
    if not path.exists():
        raise ActionError(f"{body['path']}: does not exist on the collection", remedy="run publish again")
    facts = path.stat()
    progress.total = progress.done = 1
    return {
        "name": path.name,
        "type": "dir" if path.is_dir() else "file",
        "size": facts.st_size,
        "last_modified": datetime.fromtimestamp(facts.st_mtime, tz=UTC).isoformat(timespec="seconds"),
    }
