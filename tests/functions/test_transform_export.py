"""Transforms as files: read back they are the same maps; other programs' forms say what they should."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from functions import align_render
from functions.finish import bundle
from functions.model.errors import VolumeError
from functions.store.run import Run
from functions.store.transform_files import read_chains, read_index
from functions.store.transforms import write_arrays
from functions.transform_export import export, relative_map
from tests.functions.placed_runs import FRAME, TILE, Pattern, chains, placed_run, planes, stitch_given
from tests.functions.registration_scenes import section_pixels


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return placed_run(tmp_path_factory.mktemp("placed"), zs=(0, 2), pattern=Pattern(wave_px=(30.0, 41.0)))


def test_native_transforms_read_back_are_the_same(run: Run, tmp_path: Path) -> None:
    written = export(run, tmp_path / "t", form="native")
    assert written.sections == 2
    assert written.files == 1 + 2 * 3
    assert written.bytes < 100_000
    index = read_index(tmp_path / "t")
    assert [(s.id, s.row) for s in index.sections] == [("z00000", 0), ("z00002", 2)]
    points = np.random.default_rng(0).uniform(0, 1, (40, 2)) * TILE
    for section in index.sections:
        read = read_chains(tmp_path / "t", section.id)
        for name, chain in chains(run, section.id).items():
            np.testing.assert_array_equal(read[name].apply(points), chain.apply(points))
            np.testing.assert_allclose(read[name].inverse(chain.apply(points)), points, atol=0.01)


def test_the_files_can_be_evaluated_by_what_they_say(run: Run, tmp_path: Path) -> None:
    """A reader that knows nothing but index.json's formulas comes to the same place."""
    export(run, tmp_path / "t", form="native")
    tiles = json.loads((tmp_path / "t" / "z00002.tiles.json").read_text())["tiles"]
    header = json.loads((tmp_path / "t" / "z00002.json").read_text())
    with np.load(tmp_path / "t" / header["sheet"]) as npz:
        sheet = {"spacing_px": npz["spacing_px"].item(), "coefficients": npz["coefficients"]}

    def moved(p: np.ndarray, affine: object, sheet: dict[str, object]) -> np.ndarray:
        c, out = np.array(sheet["coefficients"]), np.array(affine) @ [*p, 1.0]
        bases = []
        for v, n in zip(p, c.shape[1:], strict=True):
            u = min(max(v / float(sheet["spacing_px"]), 0.0), n - 3)  # type: ignore[arg-type]
            i = min(int(np.floor(u)), n - 4)
            t = u - i
            b = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
            bases.append((i, [w / 6 for w in b]))
        (i, wy), (j, wx) = bases
        for a in range(4):
            for b_ in range(4):
                out = out + wy[a] * wx[b_] * c[:, i + a, j + b_]
        return out

    one = tiles[2]["transform"]
    p = np.array([33.3, 101.0])
    by_hand = moved(moved(p, one["affine"], one["sheet"]), header["affine"], sheet)
    expected = chains(run, "z00002")[one["tile_id"]].apply(p[None])[0]
    np.testing.assert_allclose(by_hand, expected, atol=1e-6)


def test_a_relative_map_warps_the_stitched_sections_into_the_volume(run: Run, tmp_path: Path) -> None:
    written = export(run, tmp_path / "m", form="relative-map", stride_px=8)
    with np.load(tmp_path / "m" / "map.npz") as npz:
        found, stride = npz["map"], npz["stride_px"].item()
    assert found.shape[:2] == (2, 3)
    assert np.isnan(found[:, 1]).all()
    assert written.points == 2 * found.shape[2] * found.shape[3]
    align_render.compute(run, "z00002")
    stitch_given(run, "z00002")
    section, mask = section_pixels(run, "z00002")
    nodes = np.indices(found.shape[2:]) * float(stride)
    source = nodes + found[::-1, 2]  # x stands before y
    at = np.indices(FRAME) / stride
    dense = [ndimage.map_coordinates(c, at, order=1) for c in source]
    warped = ndimage.map_coordinates(section.astype(float), dense, order=3)
    covered = ndimage.map_coordinates(
        ndimage.binary_erosion(mask, iterations=4).astype(float), dense, order=0
    )
    image, _ = planes(run)
    assert covered.mean() > 0.6
    assert np.abs(warped - image[2])[covered > 0].max() < 4
    assert relative_map(run, 32).shape[2:] == (-(-(FRAME[0] - 1) // 32) + 1, -(-(FRAME[1] - 1) // 32) + 1)


def test_landmarks_are_the_matches_of_the_pairs(run: Run, tmp_path: Path) -> None:
    unit = "z00000-z00002"
    fixed, moving = np.array([[10.0, 20.0], [30.0, 45.5]]), np.array([[11.0, 22.0], [29.0, 44.0]])
    write_arrays(run.cell("align_pairs", unit).file("match.npz"), {"a_yx": fixed, "b_yx": moving})
    written = export(run, tmp_path / "l", form="landmarks")
    assert (written.files, written.points) == (1, 2)
    rows = list(csv.reader((tmp_path / "l" / f"{unit}.csv").read_text().splitlines()))
    assert rows[1] == ["Pt-1", "true", "44.0000", "29.0000", "45.5000", "30.0000"]


def test_tile_specs_hold_the_affine_part_and_say_what_it_leaves_out(run: Run, tmp_path: Path) -> None:
    written = export(run, tmp_path / "r", form="render-ws")
    specs = json.loads((tmp_path / "r" / "tilespecs.json").read_text())
    errors = json.loads((tmp_path / "r" / "tilespecs.notes.json").read_text())["max_error_px"]
    assert len(specs) == written.points == 8
    assert written.max_error_px == max(errors.values())
    assert 0.2 < written.max_error_px < 8
    spec = next(s for s in specs if s["tileId"] == "z00002_g0_r001_c000")
    assert (spec["z"], spec["width"], spec["height"]) == (2.0, TILE[1], TILE[0])
    assert Path(spec["mipmapLevels"]["0"]["imageUrl"].removeprefix("file://")).is_file()
    m00, m10, m01, m11, m02, m12 = map(float, spec["transforms"]["specList"][0]["dataString"].split())
    y, x = 60.0, 33.0
    placed = chains(run, "z00002")["g0_r001_c000"].apply(np.array([[y, x]]))[0]
    found = np.array([m10 * x + m11 * y + m12, m00 * x + m01 * y + m02])
    assert 0 < np.linalg.norm(found - placed) <= errors["z00002_g0_r001_c000"]


def test_a_folder_that_exists_and_no_landmarks(run: Run, tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match="exists"):
        export(run, tmp_path, form="native")
    single = placed_run(tmp_path / "one")
    with pytest.raises(VolumeError, match="no landmarks"):
        export(single, tmp_path / "l", form="landmarks")
    assert not (tmp_path / "l").exists()
    with pytest.raises(VolumeError, match=r"index\.json"):
        read_index(tmp_path)


def test_the_bundle_carries_the_transforms(finished: Run) -> None:
    folder = finished.cell("finish").file("bundle")
    index = read_index(folder / bundle.TRANSFORMS)
    assert len(index.sections) == 7
    listed = bundle.read_manifest(folder)
    assert {"transforms/index.json", "transforms/z00004.json", "transforms/z00004.npz"} <= listed.keys()
    crate = json.loads((folder / "ro-crate-metadata.json").read_text())
    entities = {e["@id"]: e for e in crate["@graph"]}
    assert entities["transforms/"]["@type"] == "Dataset"
    assert {"@id": "transforms/index.json"} in entities["./"]["hasPart"]
    assert {"@id": "transforms/"} in entities["#align_solve-action"]["result"]
    chain = read_chains(folder / bundle.TRANSFORMS, "z00004")["g0_r001_c001"]
    assert np.isfinite(chain.inverse(chain.apply(np.array([[20.0, 30.0]])))).all()
