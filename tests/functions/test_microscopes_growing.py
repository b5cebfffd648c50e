"""What adapters see of folders that grow, whether files are whole, and MultiSEM's folders."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from functions.microscopes import (
    check_acquisition,
    multisem,
    observing,
    plain,
    read_acquisition,
    sbemimage,
    sbemimage_tail,
)
from functions.microscopes.observing import tail
from functions.microscopes.wholeness import file_facts
from functions.model.errors import AcquisitionError
from functions.store.images import TileReadError, read_tile
from functions.testing.microscopes import KINDS, Script, faults_of, simulate
from tests.functions.sbem import SbemRun

PIXELS = np.arange(64 * 48, dtype=np.uint8).reshape(48, 64)


def encoded(kind: str) -> bytes:
    handle = io.BytesIO()
    if kind.startswith("tif"):
        options = {
            "tif-big": {"bigtiff": True},
            "tif-motorola": {"byteorder": ">"},
            "tif-tiled": {"tile": (16, 16)},
        }
        options["tif-lzw"] = {"compression": "lzw", "rowsperstrip": 5}
        tifffile.imwrite(handle, PIXELS, photometric="minisblack", metadata=None, **options.get(kind, {}))
    else:
        Image.fromarray(PIXELS).save(handle, format=kind)
    return handle.getvalue()


@pytest.mark.parametrize(
    "kind", ["tif", "tif-big", "tif-motorola", "tif-tiled", "tif-lzw", "BMP", "PNG", "JPEG"]
)
def test_a_file_is_whole_with_its_last_byte(tmp_path, kind):
    path, data = tmp_path / "x", encoded(kind)
    path.write_bytes(data)
    facts = file_facts(path)
    assert (facts.whole, facts.fault, facts.bits) == (True, "", 8)
    assert facts.shape_yx == (None if kind == "JPEG" else (48, 64))
    for end in sorted({1, 3, 9, 30, 60, len(data) // 2, len(data) - 10, len(data) - 1}):
        path.write_bytes(data[:end])
        short = file_facts(path)
        # of four bytes or fewer even the format cannot be told: time will
        assert short.whole is not True or kind.startswith("tif"), end
        if kind in ("tif", "BMP") and end > 8:
            assert (short.whole, short.fault) == (False, "truncated"), end


def test_a_file_that_is_not_there_or_empty(tmp_path):
    assert file_facts(tmp_path / "x").fault == "missing"
    (tmp_path / "x").touch()
    assert file_facts(tmp_path / "x").fault == "empty"
    (tmp_path / "x").write_bytes(b"something else")
    assert (file_facts(tmp_path / "x").whole, file_facts(tmp_path / "x").size) == (None, 14)


def test_a_bmp_is_read_and_a_short_one_refused(tmp_path):
    (tmp_path / "x.bmp").write_bytes(encoded("BMP"))
    assert np.array_equal(read_tile(tmp_path / "x.bmp"), PIXELS)
    (tmp_path / "x.bmp").write_bytes(encoded("BMP")[:-100])
    with pytest.raises(TileReadError):
        read_tile(tmp_path / "x.bmp")


def test_only_finished_lines_are_read_and_each_once(tmp_path):
    path = tmp_path / "log.txt"
    path.write_bytes(b"one\r\ntw")
    lines, offset = tail(path, 0)
    assert (lines, offset) == (["one"], 5)
    path.write_bytes(b"one\r\ntwo\nthr\xff")
    assert tail(path, offset) == (["two"], 9)
    path.write_bytes(b"new\n")
    assert tail(path, 9) == (["new"], 4)


def test_sbemimage_marker_belongs_to_all_tiles_since_the_last(tmp_path):
    """A pause in slice 7; in the next run its rest comes, then a marker with the number that the cut made."""
    first = SbemRun(tmp_path, "20210630101010")
    first.slice(6)
    first.tile(0, 0, 7)
    first.close()
    before = sbemimage.observe(tmp_path, {})
    assert (before.markers, before.facts.voxel_size_zyx_nm) == ({6}, (25, 10, 10))
    second = SbemRun(tmp_path, "20210630111111")
    second.tile(0, 1, 7)
    second.tile(0, 0, 6, shift=70)  # a retake of the slice before
    second.complete(7)
    second.close(ended=False)
    after = sbemimage.observe(tmp_path, json.loads(json.dumps(before.memory)))
    assert ([(t.z, t.key) for t in after.tiles], after.markers) == (
        [(7, "g0000 t0001"), (6, "g0000 t0000")],
        {6, 7},
    )
    assert after.expected[7] == tuple(f"g0000 t000{tile}" for tile in range(4))
    idle = sbemimage.observe(tmp_path, after.memory)
    assert (idle.tiles, idle.markers, idle.memory) == ([], set(), after.memory)


def test_sbemimage_a_damaged_line_is_told_and_the_rest_is_read(tmp_path):
    run = SbemRun(tmp_path, "20210630101010")
    run.tile(0, 0, 5)
    run.metadata.append("TILE: {'tileid': oops}")
    run.tile(0, 1, 5)
    run.close()
    observed = sbemimage.observe(tmp_path, {})
    assert [tile.key for tile in observed.tiles] == ["g0000 t0000", "g0000 t0001"]
    assert len(observed.problems) == 1
    assert "not a dictionary" in observed.problems[0]


def test_sbemimage_without_metadata_its_image_list_is_read(tmp_path):
    run = SbemRun(tmp_path, "20210630101010")
    run.slice(5)
    run.close(metadata=False)
    observed = sbemimage.observe(tmp_path, {})
    assert [tile.shape_yx for tile in observed.tiles] == [(48, 64)] * 4


def test_sbemimage_in_pieces_it_tells_the_same(tmp_path, monkeypatch):
    """Who was away for long is told run after run, a little at a time."""
    folder = tmp_path / "stack"
    simulate("sbemimage", folder, Script(sections=12, tile_px=8, faults=faults_of("sbemimage"), seed=3))
    whole = sbemimage.observe(folder, {})
    monkeypatch.setattr(sbemimage_tail, "MOST_TILES", 3)
    monkeypatch.setattr(observing, "TAIL_BYTES", 700)
    memory, tiles, markers, looks = {}, [], set(), 0
    while True:
        observed = sbemimage.observe(folder, memory)
        assert len(observed.tiles) < 3 + 700 // 100
        reopened = {tile.z for tile in observed.tiles}
        markers = (markers - reopened) | observed.markers
        tiles += observed.tiles
        if observed.memory == memory:
            break
        memory, looks = json.loads(json.dumps(observed.memory)), looks + 1
    assert looks > 10
    assert (tiles, markers) == (whole.tiles, whole.markers)
    assert memory == whole.memory


def test_plain_rows_are_told_once_and_anew_when_the_file_is_another(tmp_path):
    header = {"schema": plain.SCHEMA, "id": "a", "instrument": "x", "dtype": "uint8"}
    header |= {"voxel_size_zyx_nm": [30, 4, 4], "sections": [0, 3]}
    (tmp_path / plain.HEADER).write_text(json.dumps(header))
    assert plain.observe(tmp_path, {}).tiles == []
    path = tmp_path / plain.TILES
    path.write_text(",".join(plain.REQUIRED) + "\n0,0,0,a.tif,0,0,8,8\n0,0,1,b.t")
    first = plain.observe(tmp_path, {})
    assert ([tile.path for tile in first.tiles], first.facts.planned) == (["a.tif"], (0, 3))
    with open(path, "a") as handle:
        handle.write("if,0,5,8,8\n")
    second = plain.observe(tmp_path, first.memory)
    assert [tile.path for tile in second.tiles] == ["b.tif"]
    (tmp_path / "new").write_text(path.read_text())
    (tmp_path / "new").replace(path)
    assert len(plain.observe(tmp_path, second.memory).tiles) == 2


def test_multisem_a_later_folder_replaces_and_a_failed_focus_leaves_a_hole(tmp_path):
    folder = tmp_path / "wafer"
    script = Script(sections=5, rows=1, columns=2, tile_px=8, faults=("retake", "rejected"), share=0.0)
    truth = simulate("multisem", folder, script)
    read = read_acquisition(folder)
    sections = {s.z: s for s in read.acquisition.sections}
    (retaken,) = [z for z, states in truth.states.items() if len(states) == 2]
    assert {t.path for t in sections[retaken].tiles} == set(truth.states[retaken][-1])
    short = [z for z, states in truth.states.items() if len(states[-1]) == 61]
    assert [z for z, s in sections.items() if not s.complete] == short
    tile = sections[1].tiles[0]
    assert (tile.row, tile.column, tile.grid, tile.shape_yx) == (1, 1, 1, (8, 8))
    assert {f.code for f in check_acquisition(folder).findings} == {"incomplete_section"}


def test_multisem_images_without_coordinates_wait(tmp_path):
    simulate("multisem", tmp_path / "w", Script(sections=1, rows=1, columns=1, tile_px=8))
    (listed,) = (tmp_path / "w").glob("*/*/000001/image_coordinates.txt")
    (whole,) = (tmp_path / "w").glob("*/*/full_image_coordinates.txt")
    text = listed.read_text()
    listed.unlink()
    whole.unlink()
    first = multisem.observe(tmp_path / "w", {})
    assert first.tiles == []
    listed.write_text(text)
    second = multisem.observe(tmp_path / "w", first.memory)
    assert (len(second.tiles), second.expected) == (61, {1: 61})
    third = multisem.observe(tmp_path / "w", second.memory)
    assert third.tiles == []
    assert multisem.observe(tmp_path / "w", third.memory).memory == third.memory


@pytest.mark.parametrize("word", ["here", "nan"])
def test_multisem_a_damaged_coordinate_is_told_with_file_and_line(tmp_path, word):
    simulate("multisem", tmp_path / "w", Script(sections=1, rows=1, columns=1, tile_px=8))
    (listed,) = (tmp_path / "w").glob("*/*/000001/image_coordinates.txt")
    first, second, *rest = listed.read_text().split("\n")
    listed.write_text("\n".join([first, " ".join([second.split()[0], word, "0", "0"]), *rest]))
    with pytest.raises(AcquisitionError, match=r"image_coordinates.txt: line 2: x, y: not two numbers"):
        multisem.observe(tmp_path / "w", {})


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_same_seed_acquires_the_same(tmp_path, kind):
    script = Script(sections=4, columns=1, tile_px=8, faults=faults_of(kind), seed=4)
    trees = []
    for name in ("a", "b"):
        simulate(kind, tmp_path / name / "stack", script, truth=tmp_path / name / "truth.json")
        root = tmp_path / name / "stack"
        trees.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert trees[0] == trees[1]
    states = [json.loads((tmp_path / n / "truth.json").read_text())["states"] for n in ("a", "b")]
    assert states[0] == states[1]


def test_watching_loads_no_array_library():
    import subprocess

    code = (
        "import sys, flows.watch.service, flows.watch.report, flows.watch.unit\n"
        "import functions.microscopes.registry as r\n"
        "print([m for m in ('torch','zarr','numpy','tifffile','PIL','globus_sdk') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.strip() == "[]"
