"""Publish: the last look at a bundle before it leaves the site, and the record it is found by.

Nothing is sent here. The flow transfers `paths["bundle"]` and gives `entry` to its search index.
"""

from __future__ import annotations

from pathlib import Path

from functions.model.errors import UpstreamError
from functions.publication import bundle, record
from functions.store.files import sha256_file
from functions.store.run import Run
from functions.tasks import PublishedFile, PublishResult, SearchEntry


def perform(run: Run) -> PublishResult:
    """Check every file against the manifest and open every array.

    Raises:
        UpstreamError: finish has not run.
        VolumeError: a file is missing, unlisted or damaged.
    """
    cell = run.cell("finish")
    folder = cell.file("bundle")
    if not cell.is_done("all"):
        raise UpstreamError(f"{folder}: the bundle is not finished", remedy="start the run at finish")
    listed = bundle.verify(folder)
    levels = bundle.open_levels(folder)
    files = [folder / name for name in listed]
    return PublishResult(
        step="publish",
        status="look" if cell.mark("all").status == "look" else "ok",
        units=1,
        computed=1,
        figures={
            "files": len(files) + 1,
            "bytes": sum(path.stat().st_size for path in files),
            "levels": len(levels["image"]),
        },
        paths={"bundle": str(folder)},
        entry=_entry(folder),
    )


def _entry(folder: Path) -> SearchEntry:
    """The record of the bundle, with its manifest standing for all files."""
    path = folder / "search.json"
    entry = SearchEntry.parse(path.read_bytes(), source=str(path))
    return record.with_file(
        entry,
        PublishedFile(
            filename=bundle.MANIFEST,
            mime_type="text/plain",
            length=(folder / bundle.MANIFEST).stat().st_size,
            sha256=sha256_file(folder / bundle.MANIFEST),
        ),
    )
