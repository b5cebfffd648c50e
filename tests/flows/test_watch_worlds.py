"""The watcher against fake microscopes, under a clock of our own: nothing lost, nothing doubled, right
tiles."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from PIL import Image

from functions.microscopes import plain
from functions.testing.microscopes import Script, faults_of
from tests.flows.watching import SETTINGS, World

NOTHING = {"lost": [], "doubled": [], "wrong": []}


def verdict(world, truth) -> dict[str, object]:
    found = world.judge(truth)
    return {key: found[key] for key in NOTHING}


@pytest.mark.parametrize(
    ("kind", "seed"),
    [*((kind, seed) for kind in ("sbemimage", "serialem") for seed in (1, 2, 3)), ("multisem", 1)],
)
def test_every_fault_of_every_microscope(tmp_path, kind, seed):
    world = World(tmp_path)
    script = Script(
        sections=5 if kind == "multisem" else 9,
        columns=1 if kind == "multisem" else 2,
        tile_px=8,
        faults=faults_of(kind),
        seed=seed,
    )
    truth = world.acquire(kind, script, crash_every=7)
    world.rest(200)
    world.ledger.finish()
    world.rest(100)
    assert verdict(world, truth) == NOTHING
    # each retake became a version of its own, and the volume was run once
    assert world.judge(truth)["versions"] == sum(len(states) for states in truth.states.values())
    assert [tag for tag in world.starter.runs if tag.startswith("volume")] == ["volume-version:stack:1"]


def test_tags_name_section_and_version(tmp_path):
    world = World(tmp_path)
    truth = world.acquire("sbemimage", Script(sections=5, tile_px=8, faults=("retake",), share=0.0))
    world.rest(100)
    (retaken,) = [z for z, states in truth.states.items() if len(states) == 2]
    assert f"section-version:stack:{retaken}:1" in world.starter.runs
    ((request, sections),) = world.starter.runs[f"section-version:stack:{retaken}:2"]
    assert (request.sections, request.stop_after) == ((retaken, retaken + 1), "stitch")
    assert set(sections) == {str(retaken)}
    assert sorted(request.files) == sorted(f"/{path}" for path in truth.states[retaken][-1])


def test_offline_for_hours_it_catches_up_in_order(tmp_path):
    world = World(tmp_path)
    script = Script(sections=8, tile_px=8, faults=faults_of("sbemimage"), seed=5)
    truth = world.acquire("sbemimage", script, looking=False)
    world.rest(120)
    world.ledger.finish()
    world.rest(120)
    assert verdict(world, truth) == NOTHING
    order = [int(tag.split(":")[2]) for tag in world.starter.runs if tag.startswith("section")]
    assert order[:6] == sorted(order[:6])


def test_batches_and_the_rest_at_the_end(tmp_path):
    world = World(tmp_path, settings=replace(SETTINGS, every=3))
    truth = world.acquire("sbemimage", Script(sections=7, tile_px=8))
    world.rest(70)
    assert [r[0][0].sections for r in world.starter.runs.values()] == [(100, 103), (103, 106)]
    assert [row.z for row in world.ledger.sections("complete")] == [106]
    world.ledger.finish()
    world.rest(70)
    ranges = [r[0][0].sections for t, r in world.starter.runs.items() if t.startswith("section")]
    assert ranges[-1] == (106, 107)
    assert verdict(world, truth) == NOTHING


def test_a_new_watcher_repeats_nothing_and_a_lost_place_neither(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=4, tile_px=8))
    world.rest(100)
    before = dict(world.starter.calls)
    world.ledger._db.execute("UPDATE acquisition SET memory = '{}'")
    world.again()
    world.rest(200)
    assert world.starter.calls["start"] == before["start"] == 4


def test_the_volume_comes_once_all_runs_have_ended_and_again_after_a_retake(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=3, tile_px=8))
    world.rest(100)
    world.ledger.finish()
    world.rest(50)
    ((request, _),) = world.starter.runs["volume-version:stack:1"]
    assert (request.stop_after, request.files) == ("publish", ())  # all was moved by the section runs
    described = {row.z: row.tile.path for row in plain.read_rows(tmp_path, documents=_of(request))}
    assert set(described) == {100, 101, 102}
    assert all(path.startswith("raw/tiles/g0000/") for path in described.values())


def _of(request):
    from pathlib import Path

    return Path(request.documents)


def test_a_plain_folder_is_over_when_its_planned_sections_are(tmp_path):
    world = World(tmp_path)
    from functions.testing.microscopes.script import pixels, tiff_bytes

    script = Script(tile_px=8)
    (world.folder / "acquisition.json").write_text(
        '{"schema": "petavoxel.acquisition/1", "id": "stack", "instrument": "x", "dtype": "uint8",'
        ' "voxel_size_zyx_nm": [30, 4, 4], "sections": [0, 2]}'
    )
    with open(world.folder / "tiles.csv", "w") as handle:
        handle.write(",".join(plain.REQUIRED) + "\n")
        for z in range(2):
            for column in range(2):
                name = f"z{z}_{column}.tif"
                (world.folder / name).write_bytes(tiff_bytes(pixels(script, z, column)))
                handle.write(f"{z},0,{column},{name},0,{column * 28},8,8\n")
    world.look()
    assert list(world.starter.runs) == ["section-version:stack:0:1"]  # 1 has begun, so 0 is over
    (world.folder / "z00001.done").touch()
    world.rest(30)
    assert [row.rule for row in world.ledger.sections()] == ["next_section", "done_file"]
    assert "volume-version:stack:1" in world.starter.runs


def test_a_growing_file_of_an_unknown_format_waits_until_it_rests(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=1, tile_px=8), looking=False)
    path = next(world.folder.glob("tiles/g*/t0003/*.tif"))
    path.write_bytes(b"raw pixels")
    world.look()
    assert world.ledger.sections()[0].waits == f"files to be whole: {path.relative_to(world.folder)}"
    world.now += 50
    path.write_bytes(b"raw pixels and more")
    world.rest(50)
    assert not world.starter.runs
    world.rest(20)
    assert list(world.starter.runs) == ["section-version:stack:100:1"]


def test_nothing_that_leaves_names_the_operator(tmp_path):
    from functions.testing.microscopes.script import ADDRESS

    for kind in ("sbemimage", "serialem", "multisem"):
        world = World(tmp_path / kind)
        script = Script(sections=4, rows=1, columns=2, tile_px=8, faults=faults_of(kind))
        world.acquire(kind, script)
        written = b"".join(p.read_bytes() for p in world.folder.rglob("*") if p.is_file())
        assert ADDRESS.encode() in written  # the fake tells it, as the real one does
        world.rest(100)
        for runs in world.starter.runs.values():
            for request, _ in runs:
                for name in request.files:
                    assert not name.endswith("/")
                    assert ADDRESS.encode() not in (world.folder / name.lstrip("/")).read_bytes()
                assert "meta/" not in str(request.files)
        ours = [*(tmp_path / kind / "outbox").rglob("*"), *(tmp_path / kind / "home").glob("*")]
        assert any(path.name == "tiles.csv" for path in ours)
        for path in ours:
            assert not path.is_file() or ADDRESS.encode() not in path.read_bytes(), path


def listed(folder, *takes, sections=1):
    """A plain folder whose tile has each of these checksums in turn."""
    for index, take in enumerate(takes):
        rows = [f"{z},0,0,t{z}.png,0,0,8,8,{take * 64 if z == 0 else '0' * 64}" for z in range(sections)]
        text = "\n".join(["section,row,column,path,stage_y_nm,stage_x_nm,height_px,width_px,sha256", *rows])
        (folder / f"{index}.new").write_text(text + "\n")
        (folder / f"{index}.new").rename(folder / "tiles.csv")
        yield take


def plain_world(tmp_path):
    """A world with the images of two sections and no list of them yet."""
    world = World(tmp_path)
    for z in range(2):
        Image.new("L", (8, 8)).save(world.folder / f"t{z}.png")
    header = {"id": "stack", "instrument": "x", "voxel_size_zyx_nm": [30, 4, 4], "dtype": "uint8"}
    (world.folder / "acquisition.json").write_text(
        json.dumps({"schema": "petavoxel.acquisition/1", **header})
    )
    return world


def test_a_section_whose_tiles_came_back_to_an_older_take_can_be_retaken(tmp_path):
    world = plain_world(tmp_path)
    for _ in listed(world.folder, "a", "b", "a", "c"):
        world.rest(200)
    tags = [start.tag for start in world.ledger.starts()]
    assert tags == [f"section-version:stack:0:{version}" for version in (1, 2, 3)]
    assert {row.state for row in world.ledger.sections()} == {"ended"}


def test_values_that_fit_no_model_keep_only_their_own_section(tmp_path):
    world = plain_world(tmp_path)
    (world.folder / "t0.png").rename(world.folder / "later")
    for _ in listed(world.folder, "a", sections=2):
        world.look()
    with world.ledger.transaction() as db:  # what an adapter let through
        db.execute("UPDATE tiles SET body = replace(body, '[0.0,0.0]', '[NaN,0.0]') WHERE z = 0")
    (world.folder / "later").rename(world.folder / "t0.png")
    world.rest(200)
    assert list(world.starter.runs) == ["section-version:stack:1:1"]
    assert "stage_yx_nm" in world.ledger.acquisition().problems[0]
