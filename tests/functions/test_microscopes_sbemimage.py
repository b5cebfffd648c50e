"""SBEMimage stacks: each trap of the layout, and logs that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.microscopes import check_acquisition, read_acquisition
from functions.model.acquisition import Acquisition
from functions.model.errors import AcquisitionError, UnsafePathError
from tests.functions.sbem import ADDRESS, PIXEL_NM, SbemRun


def _two_slices(folder: Path) -> Path:
    run = SbemRun(folder, "20210630101010")
    run.slice(314)
    run.slice(315)
    run.close()
    return folder


def _codes(folder: Path) -> dict[str, str]:
    return {finding.code: finding.subject for finding in read_acquisition(folder).findings}


def test_a_finished_run(tmp_path: Path) -> None:
    acquisition = read_acquisition(_two_slices(tmp_path / "my stack")).acquisition
    assert (acquisition.id, acquisition.instrument, acquisition.layout) == (
        "my-stack",
        "SBEMimage",
        "sbemimage",
    )
    assert acquisition.voxel_size_zyx_nm == (25, PIXEL_NM, PIXEL_NM)
    assert [(s.z, s.complete, s.completeness_rule) for s in acquisition.sections] == [
        (314, True, "marker"),
        (315, True, "marker"),
    ]
    tile = acquisition.sections[0].tiles[3]
    assert (tile.row, tile.column, tile.shape_yx) == (1, 1, (48, 64))
    assert tile.stage_yx_nm == (400 - 147855, 560 - 398553)
    assert (tmp_path / "my stack" / tile.path).is_file()
    assert check_acquisition(tmp_path / "my stack").complete


def test_marker_counts_by_place_not_by_number(tmp_path: Path) -> None:
    """With a microtome the marker names slice k + 1; the slice above it is the one that is complete."""
    run = SbemRun(tmp_path, "20210630101010")
    run.slice(7)
    run.tile(0, 0, 8)
    run.close(ended=False)
    sections = {s.z: s for s in read_acquisition(tmp_path).acquisition.sections}
    assert sections[7].completeness_rule == "marker"
    assert not sections[8].complete
    codes = _codes(tmp_path)
    assert codes["missing_tiles"].startswith("slice 8: g0000 t0001")
    assert "run_open" in codes


def test_single_slice_run_without_marker_is_measured_by_its_configuration(tmp_path: Path) -> None:
    run = SbemRun(tmp_path, "20210630101010")
    for tile in range(4):
        run.tile(0, tile, 5)
    run.close()
    section = read_acquisition(tmp_path).acquisition.sections[0]
    assert (section.complete, section.completeness_rule) == (True, "expected_set")


def test_pause_resume_and_retake_over_two_runs(tmp_path: Path) -> None:
    """Slice 3 lies in two runs; tile 0 is taken again, so its later position counts."""
    first = SbemRun(tmp_path, "20210630101010")
    first.slice(2)
    first.tile(0, 0, 3)
    first.tile(0, 1, 3)
    first.close(ended=False, tail="TILE: {'tileid': '0000.0002.000")
    second = SbemRun(tmp_path, "20210701080000")
    second.tile(0, 0, 3, shift=70)
    second.tile(0, 2, 3)
    second.tile(0, 3, 3)
    second.complete(3)
    second.close()
    read = read_acquisition(tmp_path)
    section = read.acquisition.sections[1]
    assert (section.z, len(section.tiles), section.complete) == (3, 4, True)
    assert section.tiles[0].stage_yx_nm[1] == -398553 + 70
    assert "open_line" in {finding.code for finding in read.findings}


def test_rejected_tile_is_reported_but_the_confirmed_slice_stays_complete(tmp_path: Path) -> None:
    run = SbemRun(tmp_path, "20210630101010")
    run.slice(1, (0, 1, 3))
    run.close()
    section = read_acquisition(tmp_path).acquisition.sections[0]
    assert (section.complete, len(section.tiles)) == (True, 3)
    assert _codes(tmp_path)["missing_tiles"] == "slice 1: g0000 t0002"


def test_intervals_leave_sections_out_without_calling_them_incomplete(tmp_path: Path) -> None:
    run = SbemRun(
        tmp_path,
        "20210630101010",
        session={"grids": ["0000", "0001"], "pixel_sizes": [PIXEL_NM, PIXEL_NM], "rotation_angles": [0, 0]},
        grids={
            "grid_active": "[1, 1]",
            "active_tiles": "[[0, 1], [0]]",
            "acq_interval": "[1, 2]",
            "acq_interval_offset": "[0, 1]",
            "size": "[[1, 2], [1, 1]]",
            "pixel_size": "[10.0, 10.0]",
            "rotation": "[0, 0]",
            "tile_size": "[[64, 48], [64, 48]]",
        },
    )
    for z in range(4):
        run.tile(0, 0, z)
        run.tile(0, 1, z)
        if z % 2:
            run.tile(1, 0, z)
    run.close()
    sections = read_acquisition(tmp_path).acquisition.sections
    assert [len(s.tiles) for s in sections] == [2, 3, 2, 3]
    assert all(s.complete and s.completeness_rule == "expected_set" for s in sections)
    assert [t.grid for t in sections[1].tiles] == [0, 0, 1]


def test_grids_of_another_pixel_size_or_rotation_are_findings(tmp_path: Path) -> None:
    run = SbemRun(
        tmp_path,
        "20210630101010",
        session={
            "grids": ["0000", "0001", "0002", "0003"],
            "pixel_sizes": [10.0, 20.0, 10.0, 80.0],
            "rotation_angles": [0, 0, 30, 0],
        },
    )
    for grid, tile in ((0, 0), (0, 1), (1, 0), (2, 0), (3, 0)):
        run.tile(grid, tile, 1)
    run.close(config=False)
    read = read_acquisition(tmp_path)
    sizes = {finding.severity: finding.message for finding in read.findings if finding.code == "pixel_size"}
    assert "grid 1: pixel size 20 nm, drawn at 10 nm" in sizes["note"]
    assert "grid 3: pixel size 80 nm, not 10 nm as most; left out" in sizes["error"]
    assert any("grid 2: 30" in f.message and f.code == "rotation" for f in read.findings)
    tiles = {t.grid: (t.rotation_deg, t.pixel_size_yx_nm) for t in read.acquisition.sections[0].tiles}
    assert tiles == {0: (0.0, None), 1: (0.0, (20.0, 20.0)), 2: (30.0, None)}


def test_imagelist_alone_is_enough_with_a_configuration(tmp_path: Path) -> None:
    run = SbemRun(tmp_path, "20210630101010")
    run.slice(4)
    run.slice(5)
    run.close(metadata=False)
    acquisition = read_acquisition(tmp_path).acquisition
    assert [s.completeness_rule for s in acquisition.sections] == ["expected_set", "expected_set"]
    assert acquisition.sections[0].tiles[1].path == "tiles/g0000/t0001/stack_g0000_t0001_s00004.tif"
    assert acquisition.voxel_size_zyx_nm[0] == 25


def test_missing_slices_and_numpy_scalars(tmp_path: Path) -> None:
    run = SbemRun(tmp_path, "20210630101010")
    run.slice(4)
    run.slice(7)
    run.metadata = [
        line.replace("'glob_x': -398553", "'glob_x': np.float64(-398553.0)") for line in run.metadata
    ]
    run.close()
    acquisition = read_acquisition(tmp_path).acquisition
    assert acquisition.missing_sections == (5, 6)
    assert acquisition.sections[0].tiles[0].stage_yx_nm[1] == -398553


def test_nobody_is_named(tmp_path: Path) -> None:
    """Neither the acquisition, nor the findings, nor an error text shows the operator's address."""
    read = read_acquisition(_two_slices(tmp_path))
    assert ADDRESS not in read.model_dump_json()
    path = tmp_path / "meta" / "logs" / "metadata_20210630101010.txt"
    text = path.read_text()
    for damaged in (
        text.replace("[0.8], ", "[0.8"),
        text.replace("'slice_thickness': 25", "'slice_thickness': 'x'"),
    ):
        path.write_text(damaged)
        with pytest.raises(AcquisitionError, match=r"metadata_20210630101010.txt: line 1: ") as caught:
            read_acquisition(tmp_path)
        assert ADDRESS not in str(caught.value)


@pytest.mark.parametrize("climbing", ["../../x.tif", "/etc/passwd", "C:\\\\x.tif"])
def test_paths_that_leave_the_folder(tmp_path: Path, climbing: str) -> None:
    path = _two_slices(tmp_path) / "meta" / "logs" / "metadata_20210630101010.txt"
    name = "tiles/g0000/t0000/stack_g0000_t0000_s00314.tif"
    path.write_text(path.read_text().replace(name, climbing))
    with pytest.raises(UnsafePathError, match=r"metadata_20210630101010.txt: line 2: filename"):
        read_acquisition(tmp_path)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("metadata", "'tile_width': 64", "'tile_width': -4", "line 2: TILE: tile_width"),
        ("metadata", "'slice_counter': 314", "'slice_counter': 9", "line 2: slice_counter"),
        ("metadata", "'0000.0000.00314'", "'a0000'", "line 2: TILE: tileid"),
        ("config", "[[0, 1, 2, 3]]", "[[0, 1", r"\[grids\] active_tiles"),
        ("config", "acq_interval = [1]", "acq_interval = [0]", r"\[grids\]: acq_interval\[0\]"),
        ("config", "[grids]", "[other]", r"\[grids\]: grid_active"),
        ("imagelist", ";314", ";x", "line 1: x, y, slice"),
    ],
)
def test_damaged_logs_name_file_and_field(
    tmp_path: Path, name: str, old: str, new: str, message: str
) -> None:
    path = _two_slices(tmp_path) / "meta" / "logs" / f"{name}_20210630101010.txt"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(AcquisitionError, match=message) as caught:
        read_acquisition(tmp_path)
    assert path.name in str(caught.value)


@given(
    kind=st.sampled_from(["metadata", "imagelist", "config"]),
    edits=st.lists(
        st.tuples(st.integers(0, 4000), st.text(max_size=8), st.integers(0, 12)), min_size=1, max_size=4
    ),
)
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_log_gives_an_acquisition_or_an_acquisition_error(
    tmp_path: Path, kind: str, edits: list[tuple[int, str, int]]
) -> None:
    if not any(tmp_path.iterdir()):
        _two_slices(tmp_path)
    path = tmp_path / "meta" / "logs" / f"{kind}_20210630101010.txt"
    text = whole = path.read_text()
    for place, inserted, removed in edits:
        place %= len(text) + 1
        text = text[:place] + inserted + text[place + removed :]
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        read = read_acquisition(tmp_path)
    except AcquisitionError:
        return
    finally:
        path.write_text(whole)
    assert isinstance(read.acquisition, Acquisition)
