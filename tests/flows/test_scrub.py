"""A start by hand: nothing that names people leaves with it, and the site knows no less for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flows.errors import InputError, SiteError
from flows.inputs import RunRequest, build_input
from flows.local.actions import Progress
from flows.local.registered import function_ids
from flows.local.transfer import Collections, transfer
from flows.scrub import scrubbed
from flows.site import Collection, local_site
from flows.watch.outbox import copy_planes
from functions.microscopes import plain, read_acquisition
from functions.microscopes.registry import section_findings
from functions.store.images import read_tile
from functions.store.mrc import new_header
from functions.testing.microscopes import Script, simulate
from functions.testing.microscopes.script import ADDRESS

IDS = function_ids("functions.entrypoints")


def moved(request: RunRequest, site):
    """What the flow's transfer brings to scratch, read there as ingest does."""
    facts = build_input(request, site, functions=IDS)["input"]
    ways = [(facts["source"]["path"] + name, facts["raw"]["path"] + name) for name in facts["files"]]
    ways += [(way["source"], way["destination"]) for way in facts["documents"]]
    body = {
        "source_endpoint": site.instrument.id,
        "destination_endpoint": site.scratch.id,
        "DATA": [
            {"source_path": source, "destination_path": to, "recursive": source.endswith("/")}
            for source, to in ways
        ],
        "filter_rules": facts["filter_rules"],
    }
    roots = {place.id: Path(place.base_path) for place in (site.instrument, site.scratch)}
    roots[site.scratch.id].mkdir(parents=True, exist_ok=True)
    transfer(Collections(roots), body, Progress())
    base, documents = Path(facts["run"]["acquisition"]), facts["run"]["documents"]
    return base, read_acquisition(base, documents=Path(documents) if documents else None)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("sbemimage", "rejected"), ("serialem", "lost-last-marker"), ("multisem", "rejected")],
)
def test_only_images_and_our_documents_leave_and_say_the_same(tmp_path, kind, fault):
    folder, home = tmp_path / "stack", tmp_path / "home"
    script = Script(sections=2, rows=1, columns=2, tile_px=8, faults=(fault,), share=0.0)
    simulate(kind, folder, script)
    (folder / "notes.txt").write_text(ADDRESS)
    site = local_site(home)
    request = scrubbed(RunRequest(source=str(folder)), outbox=home / "outbox")
    base, there = moved(request, site)

    images = {p.relative_to(folder) for p in folder.rglob("*") if p.suffix in (".tif", ".bmp")}
    raw = base / "raw"
    assert {p.relative_to(raw) for p in raw.rglob("*") if p.is_file()} == images
    for path in home.rglob("*"):
        assert not path.is_file() or ADDRESS.encode() not in path.read_bytes(), path

    here = read_acquisition(folder)
    assert there.acquisition.voxel_size_zyx_nm == here.acquisition.voxel_size_zyx_nm
    assert there.acquisition.missing_sections == here.acquisition.missing_sections
    for mine, theirs in zip(here.acquisition.sections, there.acquisition.sections, strict=True):
        assert [t.stage_yx_nm for t in mine.tiles] == [t.stage_yx_nm for t in theirs.tiles]
        for tile, other in zip(mine.tiles, theirs.tiles, strict=True):
            left = read_tile(folder / tile.path, tile.plane)
            np.testing.assert_array_equal(left, read_tile(base / other.path, other.plane))
    said = [*here.findings, *section_findings(here.acquisition)]
    told = [*there.findings, *section_findings(there.acquisition)]
    assert sorted(f.message for f in told) == sorted(f.message for f in said)
    again = scrubbed(RunRequest(source=str(folder)), outbox=home / "outbox")
    assert again == request


def test_the_command_asks_for_it(tmp_path, monkeypatch):
    from typer_cli.facade import request_of

    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
    simulate("sbemimage", tmp_path / "stack", Script(sections=1, tile_px=8))
    words = dict.fromkeys(("start_at", "stop_after", "sections", "settings"))
    request = request_of(tmp_path / "stack", **words, outbox=tmp_path / "out")
    assert request.documents is not None
    assert Path(request.documents).is_relative_to(tmp_path / "out")


def test_a_plain_folder_leaves_as_it_is(tmp_path):
    simulate("sbemimage", tmp_path / "stack", Script(sections=1, tile_px=8))
    found = read_acquisition(tmp_path / "stack").acquisition.model_copy(update={"dtype": "uint8"})
    plain.write(tmp_path / "stack", found)
    request = RunRequest(source=str(tmp_path / "stack"))
    assert scrubbed(request, outbox=tmp_path / "outbox") == request
    assert build_input(request, local_site(tmp_path), functions=IDS)["input"]["filter_rules"] == []


def test_an_outbox_that_the_collection_does_not_show(tmp_path):
    simulate("sbemimage", tmp_path / "data" / "stack", Script(sections=1, tile_px=8))
    request = RunRequest(source=str(tmp_path / "data" / "stack"))
    site = local_site(tmp_path / "home")
    data = Collection(id=site.instrument.id, base_path=str(tmp_path / "data"))
    site = site.model_copy(update={"instrument": data})
    with pytest.raises(SiteError, match="give --outbox a folder that the instrument collection shows"):
        build_input(scrubbed(request, outbox=tmp_path / "outbox"), site, functions=IDS)


def test_planes_of_several_stacks(tmp_path):
    for name, value in (("a.mrc", 1), ("b.mrc", 2)):
        pixels = np.full((2, 4, 4), value, np.uint8)
        pixels[1] += 10
        header = new_header(shape_yx=(4, 4), planes=2, mode=0)
        (tmp_path / name).write_bytes(header[:224] + ADDRESS.encode().ljust(800) + pixels.tobytes())
    copy_planes(tmp_path, [("b.mrc", 1), ("a.mrc", 0)], tmp_path / "out.mrc")
    assert [int(read_tile(tmp_path / "out.mrc", plane)[0, 0]) for plane in (0, 1)] == [12, 1]
    assert ADDRESS.encode() not in (tmp_path / "out.mrc").read_bytes()
    (tmp_path / "c.mrc").write_bytes(new_header(shape_yx=(4, 8), planes=1, mode=0) + bytes(32))
    with pytest.raises(InputError, match="planes of another size"):
        copy_planes(tmp_path, [("b.mrc", 1), ("c.mrc", 0)], tmp_path / "out.mrc")
