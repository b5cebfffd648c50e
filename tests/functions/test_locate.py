"""Points are followed from raw tiles and the stage to the volume and back, or it is said why not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from functions import align_pairs, align_solve, ingest, stitch
from functions.locate import Located, Locator
from functions.model.errors import TaskError
from functions.model.regions import Regions
from functions.model.transform import CutSheet, SectionTransform, Warp, sheet_shape
from functions.store.drawing import save_usable
from functions.store.point_files import read_points, write_points
from functions.store.run import Run
from functions.store.transforms import load_layout, save_transform
from functions.tasks import RunSpec
from functions.testing.acquisition import AcquisitionConfig, phantom_shape_zyx, write_acquisition
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig
from tests.functions.placed_runs import SECTION, STEP, TILE, chains, placed_run, usable
from tests.functions.registration_scenes import VOXEL_ZYX_NM


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return placed_run(tmp_path_factory.mktemp("placed"), zs=(2, 4))


def hit(found: Located, tile: str) -> tuple[float, float]:
    return next(h.yx_px for h in found.tiles if h.tile == tile)


def test_tile_pixel_to_voxel_and_back(run: Run) -> None:
    locator, rng = Locator(run), np.random.default_rng(0)
    for z in (2, 4):
        for name, chain in chains(run, f"z{z:05d}").items():
            for _ in range(6):
                y, x = (float(v) for v in rng.uniform(2, np.array(TILE) - 3))
                there = locator.from_tile(z, name, (y, x))
                assert there.state == "shown"
                assert there.voxel_zyx is not None
                np.testing.assert_allclose(there.voxel_zyx[1:], chain.apply(np.array([[y, x]]))[0], atol=1e-3)
                assert there.voxel_zyx[0] == z - 2
                back = locator.from_voxel(there.voxel_zyx)
                assert hit(back, name) == pytest.approx((y, x), abs=0.01)
                assert sum(h.drawn for h in back.tiles) == 1
                assert there.volume_zyx_nm == pytest.approx(np.multiply(there.voxel_zyx, VOXEL_ZYX_NM))


def test_the_drawn_tile_is_the_one_that_lies_deepest(run: Run) -> None:
    locator = Locator(run)
    names = [t.tile_id for t in load_layout(run, "z00002").tiles]
    in_overlap = locator.from_tile(2, names[0], (80.0, float(TILE[1] - 6)))
    assert {h.tile for h in in_overlap.tiles} == {names[0], names[1]}
    assert in_overlap.drawn is not None
    assert in_overlap.drawn.tile == names[1]
    middle = locator.from_tile(2, names[0], (70.0, 60.0))
    assert [h.tile for h in middle.tiles] == [names[0]]


def test_stage_to_voxel_and_back(run: Run) -> None:
    locator = Locator(run)
    stage = (70.0 * VOXEL_ZYX_NM[1], (STEP[1] + 90.0) * VOXEL_ZYX_NM[2])
    found = locator.from_stage(2, stage)
    tile = run.sections[0].section.tiles[1]
    assert found.drawn is not None
    assert (found.drawn.tile, found.drawn.yx_px) == (tile.id, pytest.approx((70.0, 90.0), abs=0.01))
    assert found.voxel_zyx is not None
    back = locator.from_voxel(found.voxel_zyx)
    assert back.drawn is not None
    assert back.drawn.stage_yx_nm == pytest.approx(stage, abs=0.05)


def test_places_where_nothing_is_are_told_apart(run: Run) -> None:
    locator = Locator(run)
    states = {
        "outside_volume": locator.from_voxel((0.0, -4.0, 9.0)),
        "missing_section": locator.from_voxel((1.0, 90.0, 90.0)),
        "no_tile": locator.from_voxel((0.0, 0.0, 0.0)),
        "outside_tile": locator.from_tile(2, run.sections[0].section.tiles[0].id, (TILE[0] + 1.0, 9.0)),
    }
    assert {name: found.state for name, found in states.items()} == {name: name for name in states}
    assert all(found.note for found in states.values())
    assert locator.from_stage(2, (1e9, 0.0)).state == "no_tile"
    assert locator.from_voxel((5.0, 90.0, 90.0)).state == "outside_volume"


def test_masked_pixels_are_not_shown(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    layout = load_layout(run, "z00000")
    dead = usable()
    dead[:, :10] = False
    save_usable(run, layout, [dead] + [usable()] * 3)
    locator = Locator(run)
    assert locator.from_tile(0, layout.tiles[0].tile_id, (60.0, 30.0)).state == "masked"
    assert locator.from_tile(0, layout.tiles[0].tile_id, (60.0, 100.0)).state == "shown"


def test_points_in_a_fold_are_said_to_be_cut(tmp_path: Path) -> None:
    run = placed_run(tmp_path)
    cells = np.zeros((-(-SECTION[0] // 8), -(-SECTION[1] // 8)), np.int16)
    cells[:, 18:], cells[:, 17] = 1, -1
    both = np.zeros((2, 2, *sheet_shape(SECTION, 64.0)))
    both[1, 1] = 20.0
    warp = Warp(
        affine=np.array([[1.0, 0, 5], [0, 1.0, 5]]),
        sheet=CutSheet(spacing_px=64.0, coefficients=both, regions=Regions(labels=cells)),
    )
    save_transform(run, SectionTransform(section="z00000", shape_yx=SECTION, warp=warp))
    locator, line = Locator(run), 17 * 8 + 3.5
    left, right = locator.from_voxel((0, 80.0, line - 4)), locator.from_voxel((0, 80.0, line + 32))
    assert (left.state, right.state) == ("shown", "shown")
    assert right.section_yx_px is not None
    assert right.section_yx_px == pytest.approx((75.0, line + 7))
    gap = locator.from_voxel((0, 80.0, line + 15))
    assert (gap.state, gap.section_yx_px, gap.tiles) == ("cut", None, ())
    assert "fold or crack" in gap.note


def test_what_does_not_exist_is_named(run: Run) -> None:
    with pytest.raises(TaskError, match="section 3: not among the usable sections; use one of 2, 4"):
        Locator(run).from_tile(3, "g0_r000_c000", (1, 1))
    with pytest.raises(TaskError, match=r"section 2: no usable tile g9; use one of g0_r000_c000"):
        Locator(run).from_tile(2, "g9", (1, 1))


def test_many_points_from_a_file(run: Run, tmp_path: Path) -> None:
    names = [t.tile_id for t in load_layout(run, "z00004").tiles]
    path = tmp_path / "points.csv"
    path.write_text(f"name,section,tile,y_px,x_px\na,4,{names[3]},50,60\nb,2,{names[0]},70.5,60\n")
    rows = read_points(path)
    found = Locator(run).from_rows(rows)
    assert [f.section for f in found] == ["z00004", "z00002"]
    assert rows[0].cells["name"] == "a"
    voxels = [f.voxel_zyx for f in found]
    lines = [dict(zip(("voxel_z", "voxel_y", "voxel_x"), v, strict=True)) for v in voxels if v is not None]
    write_points(tmp_path / "voxels.csv", lines)
    again = Locator(run).from_rows(read_points(tmp_path / "voxels.csv"))
    assert hit(again[0], names[3]) == pytest.approx((50, 60), abs=0.01)
    assert (tmp_path / "voxels.csv").read_text().startswith("voxel_z,voxel_y,voxel_x\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "row 1: columns a, b"),
        ("", "row 1: columns none"),
        ("voxel_z,voxel_y,voxel_x\n0,1,2\n0,q,2\n", "row 3: voxel_y: 'q' is no number"),
        ("voxel_z,voxel_y,voxel_x\n0,1\n", "row 2: not as many cells"),
        ("section,stage_y_nm,stage_x_nm\n1.5,0,0\n", "row 2: section: '1.5' is no number"),
        ("voxel_z,voxel_y,voxel_x\n0,nan,2\n", "row 2: voxel_y: 'nan'"),
    ],
)
def test_points_that_do_not_parse_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.csv").write_text(text)
    with pytest.raises(TaskError, match=message):
        read_points(tmp_path / "p.csv")


def test_a_known_point_of_the_phantom_is_found(tmp_path: Path) -> None:
    """Phantom points that several sections show come to one place, within the error of the alignment."""
    config = AcquisitionConfig(seed=3, id="points", tile_shape_yx=(160, 160), grid=(1, 2), overlap_px=40)
    phantom = make_phantom(PhantomConfig(seed=2, shape_zyx=(16, *phantom_shape_zyx(config, 16)[1:])))
    truth = write_acquisition(tmp_path / "acq", phantom, config)
    work = RunSpec(work=str(tmp_path / "work"), acquisition=str(tmp_path / "acq"))
    work = work.model_copy(
        update={
            "parameters": work.parameters.model_copy(
                update={"ingest": work.parameters.ingest.model_copy(update={"sections": (0, 3)})}
            )
        }
    )
    run = Run(work)
    ingest.perform(run)
    assert all(len(s.sha256) == 2 for s in run.sections)
    for step, module in (("stitch", stitch), ("align_pairs", align_pairs)):
        for unit in module.units(run):
            run.cell(step, unit).run_unit(unit, lambda m=module, u=unit: m.compute(run, u))
    align_solve.perform(run)
    locator, middle = Locator(run), np.array(phantom.image.shape[1:]) / 2
    for shift in ((0, 0), (-40, -60), (30, 70)):
        places = []
        for z in range(3):
            on_section = truth.phantom_to_section(z, (middle + shift)[None])
            column = next(
                c for c in (0, 1) if truth.inside_tile(truth.section_to_tile(z, 0, c, on_section))[0]
            )
            y, x = (float(v) for v in truth.section_to_tile(z, 0, column, on_section)[0])
            found = locator.from_tile(z, f"g0_r000_c{column:03d}", (y, x))
            assert found.state == "shown"
            places.append(found.voxel_zyx)
        assert np.ptp(np.array(places)[:, 1:], axis=0).max() < 1.5, places
