"""What a start by hand takes along of a folder whose logs may name people.

The watcher's rule (`flows.watch.outbox`) for a whole acquisition: of what the microscope wrote only images
leave its computer. An acquisition.json, a tiles.csv and what the adapter found are written in the stead of
logs and sidecars, and planes of stacks are copied out under a header without labels. A plain folder's
documents are its owner's own work and leave as they are.
"""

from __future__ import annotations

from pathlib import Path

from flows.inputs import RunRequest, acquisition_name
from flows.records import TRANSFER
from flows.watch.outbox import copy_planes, stated_dtype
from functions.microscopes import plain
from functions.microscopes.findings import write_findings
from functions.microscopes.registry import adapter_of, section_findings
from functions.model.acquisition import Acquisition, Section
from functions.store.files import atomic_path, fingerprint


def scrubbed(request: RunRequest, *, outbox: Path) -> RunRequest:
    """The same request with documents of our own, written to a folder of `outbox`.

    The folder's name follows from what it says: the same acquisition has the same documents at the site.

    Raises:
        AcquisitionError: no adapter knows the layout, or its metadata do not fit.
        InputError: no file states a pixel type, or a stack became shorter.
    """
    folder = Path(request.source).expanduser().resolve()
    if request.documents is not None or not folder.is_dir():
        return request
    adapter = adapter_of(folder)
    if adapter.NAME == plain.NAME:
        return request
    read = adapter.read(folder)
    found = read.acquisition.model_copy(update={"id": request.acquisition_id or acquisition_name(folder)})
    if found.dtype is None:
        tiles = (tile for section in found.sections for tile in section.tiles)
        found = found.model_copy(update={"dtype": stated_dtype(folder, tiles, what=str(folder))})
    target = outbox / f"by-hand-{fingerprint(found.to_json())}"
    if request.start_at == TRANSFER:
        findings = [*read.findings, *(f for f in section_findings(found) if f.code == "incomplete_section")]
        with atomic_path(target) as partial:
            partial.mkdir(parents=True)
            plain.write(partial, _moved(found, folder, partial, target.name))
            write_findings(partial, findings)
    return request.model_copy(update={"documents": str(target), "files": _files(request, found)})


def _files(request: RunRequest, acquisition: Acquisition) -> tuple[str, ...]:
    """All images of the folder; of one with stacks, whose labels may name people, only the single images."""
    tiles = [tile for section in acquisition.sections for tile in section.tiles]
    if all(tile.plane is None for tile in tiles):
        return request.files
    return tuple(f"/{tile.path}" for tile in tiles if tile.plane is None)


def _moved(acquisition: Acquisition, folder: Path, partial: Path, name: str) -> Acquisition:
    """The acquisition with its tiles where the transfer puts them; copies the planes of stacks."""
    sections = [_section(section, folder, partial, name) for section in acquisition.sections]
    return acquisition.model_copy(update={"sections": tuple(sections)})


def _section(section: Section, folder: Path, partial: Path, name: str) -> Section:
    planes = [(tile.path, tile.plane) for tile in section.tiles if tile.plane is not None]
    stack = f"z{section.z:05d}.mrc"
    if planes:
        copy_planes(folder, planes, partial / stack)
    tiles, plane = [], 0
    for tile in section.tiles:
        if tile.plane is None:
            tiles.append(tile.model_copy(update={"path": f"raw/{tile.path}"}))
        else:
            tiles.append(tile.model_copy(update={"path": f"documents/{name}/{stack}", "plane": plane}))
            plane += 1
    return section.model_copy(update={"tiles": tuple(tiles)})
