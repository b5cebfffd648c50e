"""SerialEM montages: stacks with sidecars, TIFF series, and each trap of the format."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from functions.microscopes import read_acquisition, serialem
from functions.model.errors import AcquisitionError, TaskError
from functions.store.images import TileReadError, read_tile, tile_header, tile_sha256, write_tile
from functions.store.mrc import new_header, read_header
from functions.testing.microscopes import Script, simulate

HEAD = """PixelSpacing = 76.8
Voltage = 300
ImageFile = C:\\Users\\somebody\\mmm.mrc
ImageSize = 24 16
Montage = 1
DataMode = 1

[T = SerialEM: Krios Camera -> 0:Ceta 1:GIF-K3         29-Mar-21  21:30:01    ]

"""


def piece(z: int, x: int, y: int, section: int = 0, kind: str = "ZValue", more: str = "") -> str:
    return (
        f"[{kind} = {z}]\nPieceCoordinates = {x} {y} {section}\nMinMaxMean = 0 7754 189.845\n"
        f"StagePosition = 421.161 -578.135\nDateTime = 29-Mar-21  21:31:12\n{more}\n"
    )


def notes(folder: Path) -> None:
    (folder / "petavoxel.json").write_text(json.dumps({"section_thickness_nm": 50}))


@pytest.fixture
def montage(tmp_path) -> Path:
    """Two pieces of a section, the upper one first, and the marker."""
    notes(tmp_path)
    planes = np.arange(2 * 16 * 24, dtype="<i2").reshape(2, 16, 24) - 5
    (tmp_path / "mmm.mrc").write_bytes(new_header(shape_yx=(16, 24), planes=2, mode=1) + planes.tobytes())
    text = HEAD + piece(0, 0, 14) + piece(1, 0, 0) + "[MontSection = 0]\n\n"
    (tmp_path / "mmm.mrc.mdoc").write_text(text)
    return tmp_path


def test_y_points_up(montage):
    acquisition = read_acquisition(montage).acquisition
    assert (acquisition.layout, acquisition.dtype) == ("serialem", "uint16")
    assert acquisition.voxel_size_zyx_nm == pytest.approx((50, 7.68, 7.68))
    (section,) = acquisition.sections
    assert (section.complete, section.completeness_rule) == (True, "marker")
    lower, upper = section.tiles
    assert (lower.plane, upper.plane) == (1, 0)
    # the upper one has the smaller y, 14 px above
    assert lower.stage_yx_nm[0] - upper.stage_yx_nm[0] == pytest.approx(14 * 7.68)
    image = read_tile(montage / upper.path, upper.plane)
    assert image.shape == (16, 24)
    # the last row of the file is the top one; negative values are 0
    assert (image[0, 0], image[-1, 0], image[-1, 5]) == (15 * 24 - 5, 0, 0)


def test_a_plane_has_a_checksum_of_its_own(montage):
    before = [tile_sha256(montage / "mmm.mrc", plane) for plane in (0, 1)]
    assert before[0] != before[1]
    with open(montage / "mmm.mrc", "ab") as handle:
        handle.write(b"\0" * 768)
    assert [tile_sha256(montage / "mmm.mrc", plane) for plane in (0, 1)] == before


def test_a_plane_that_is_not_there_yet(montage):
    path = montage / "mmm.mrc"
    path.write_bytes(path.read_bytes()[:-1])
    assert tile_header(path, 0).shape_yx == (16, 24)
    with pytest.raises(TileReadError, match="plane 1 ends at byte 2560, the file at 2559"):
        read_tile(path, 1)
    with pytest.raises(TileReadError, match="plane 2 of 2"):
        read_tile(path, 2)


@pytest.mark.parametrize(("mode", "flags", "first"), [(0, 0, 200), (0, 1, 72), (6, 0, 0xC8C8)])
def test_bytes_are_unsigned_unless_the_stamp_says_so(tmp_path, mode, flags, first):
    head = bytearray(new_header(shape_yx=(2, 3), planes=1, mode=mode))
    head[152:160] = (1146047817).to_bytes(4, "little") + flags.to_bytes(4, "little")
    (tmp_path / "x.mrc").write_bytes(bytes(head) + b"\xc8" * (6 if mode == 0 else 12))
    assert read_header(tmp_path / "x.mrc").plane_bytes == (6 if mode == 0 else 12)
    assert read_tile(tmp_path / "x.mrc")[0, 0] == first


def test_aligned_coordinates_are_preferred_very_sloppy_ones_first(montage):
    more = "AlignedPieceCoords = 3 20 0\nAlignedPieceCoordsVS = 5 21 0\n"
    text = HEAD + piece(0, 0, 14, more=more) + piece(1, 0, 0, more="AlignedPieceCoords = 1 2 0\n")
    (montage / "mmm.mrc.mdoc").write_text(text)
    lower, upper = read_acquisition(montage).acquisition.sections[0].tiles
    assert upper.stage_yx_nm == pytest.approx((-(21 + 16) * 7.68, 5 * 7.68))
    assert lower.stage_yx_nm == pytest.approx((-(2 + 16) * 7.68, 1 * 7.68))


def test_without_a_marker_pieces_are_counted_against_the_grid_they_span(montage):
    three = HEAD + piece(0, 0, 0) + piece(1, 0, 14) + piece(2, 20, 14)
    (montage / "mmm.mrc.mdoc").write_text(three)
    observed = serialem.observe(montage, {})
    assert (observed.markers, observed.expected, len(observed.tiles)) == (set(), {0: 4}, 3)
    section = read_acquisition(montage).acquisition.sections[0]
    assert (section.complete, section.completeness_rule) == (False, "expected_set")


def test_each_block_is_told_once_and_only_when_it_is_finished(montage):
    path = montage / "mmm.mrc.mdoc"
    text = path.read_text()
    memory: dict = {}
    seen, markers = [], set()
    for end in range(0, len(text) + 1, 7):
        path.write_text(text[:end])
        observed = serialem.observe(montage, memory)
        memory = json.loads(json.dumps(observed.memory))
        seen += [tile.plane for tile in observed.tiles]
        markers |= observed.markers
        assert observed.problems == []
    path.write_text(text)
    markers |= serialem.observe(montage, memory).markers
    assert (seen, markers) == ([0, 1], {0})
    assert "somebody" not in json.dumps(memory)


def test_a_series_of_tiffs(tmp_path):
    notes(tmp_path)
    text = HEAD.replace("Montage = 1", "ImageSeries = 1")
    for index, (x, y) in enumerate([(0, 0), (20, 0)]):
        write_tile(tmp_path / f"t_{index}.tif", np.full((16, 24), index + 7, np.uint8))
        text += piece(0, x, y, section=3).replace("[ZValue = 0]", f"[Image = t_{index}.tif]")
    (tmp_path / "series.idoc").write_text(text)
    (section,) = read_acquisition(tmp_path).acquisition.sections
    assert (section.z, [(t.path, t.plane) for t in section.tiles]) == (
        3,
        [("t_0.tif", None), ("t_1.tif", None)],
    )


def test_a_thickness_that_nobody_states(montage):
    (montage / "petavoxel.json").unlink()
    with pytest.raises(AcquisitionError, match="section_thickness_nm: the microscope does not say"):
        read_acquisition(montage)
    (montage / "petavoxel.json").write_text("[3]")
    with pytest.raises(AcquisitionError, match="not a JSON object of numbers"):
        read_acquisition(montage)


def test_a_damaged_block_is_named(montage):
    (montage / "mmm.mrc.mdoc").write_text(HEAD + "[ZValue = 0]\nPieceCoordinates = 1 x 0\n\n")
    with pytest.raises(AcquisitionError, match=r"mmm.mrc.mdoc: \[ZValue = 0\]"):
        read_acquisition(montage)


def test_faults_that_a_microscope_does_not_know(tmp_path):
    with pytest.raises(TaskError, match="retake: not one of pause"):
        simulate("serialem", tmp_path / "x", Script(faults=("retake",)))
    with pytest.raises(TaskError, match="inside the acquisition"):
        simulate("serialem", tmp_path / "x", Script(), truth=tmp_path / "x" / "truth.json")
    with pytest.raises(TaskError, match="no such microscope"):
        simulate("camera", tmp_path / "x", Script())
