"""Plain folders: what is read, and how each kind of bad metadata is refused."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from functions.microscopes import check_acquisition, plain, read_acquisition
from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.errors import AcquisitionError, UnsafePathError
from functions.store.images import write_tile
from tests.functions.fafb import fafb_acquisition, fafb_reference, needs_fafb

SHAPE = (48, 64)


def make(
    folder: Path, *, sections: tuple[int, ...] = (3, 4), tiles: int = 2, images: bool = True
) -> Acquisition:
    """A plain acquisition of random tiles."""
    made = []
    for z in sections:
        row = []
        for column in range(tiles):
            name = f"s{z}/c{column}.tif"
            if images:
                write_tile(
                    folder / name, np.random.default_rng([z, column]).integers(0, 256, SHAPE).astype(np.uint8)
                )
            place = (0.0, column * 50 * 4.0)
            row.append(Tile(row=0, column=column, path=name, stage_yx_nm=place, shape_yx=SHAPE))
        made.append(Section(z=z, tiles=tuple(row)))
    acquisition = Acquisition(
        id="small",
        instrument="test",
        layout="plain",
        voxel_size_zyx_nm=(40, 4, 4),
        dtype="uint8",
        sections=tuple(made),
        missing_sections=tuple(z for z in range(sections[0], sections[-1]) if z not in sections),
    )
    folder.mkdir(parents=True, exist_ok=True)
    plain.write(folder, acquisition)
    return acquisition


def edit_csv(folder: Path, row: int, column: str, value: str) -> None:
    """Change one cell; row 1 is the header."""
    path = folder / "tiles.csv"
    lines = path.read_text().splitlines()
    cells = lines[row - 1].split(",")
    cells[lines[0].split(",").index(column)] = value
    lines[row - 1] = ",".join(cells)
    path.write_text("\n".join(lines) + "\n")


def edit_json(folder: Path, **changes: object) -> None:
    """Change fields of acquisition.json; None removes one."""
    path = folder / "acquisition.json"
    document = {k: v for k, v in (json.loads(path.read_text()) | changes).items() if v is not None}
    path.write_text(json.dumps(document))


def test_written_is_read_back(tmp_path: Path) -> None:
    written = make(tmp_path, sections=(3, 4, 6))
    assert read_acquisition(tmp_path).acquisition == written
    check = check_acquisition(tmp_path)
    assert (check.sections, check.tiles, check.first_section, check.last_section) == (3, 6, 3, 6)
    assert [f.code for f in check.findings] == ["missing_section"]
    assert not check.complete


def test_a_spreadsheet_s_csv_and_optional_columns(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "tiles.csv").write_bytes(
        b"\xef\xbb\xbfpath,section,row,column,stage_y_nm,stage_x_nm,height_px,width_px\r\n"
        b'"s3\\c0.tif",3,0,0,-1.5e3,0,48,64\r\n\r\n'
    )
    tile = read_acquisition(tmp_path).acquisition.sections[0].tiles[0]
    assert (tile.path, tile.stage_yx_nm, tile.sha256, tile.grid) == ("s3/c0.tif", (-1500.0, 0.0), None, 0)


@pytest.mark.parametrize(
    ("row", "column", "value", "message"),
    [
        (3, "stage_x_nm", "left", "tiles.csv: row 3: stage_x_nm: not a number"),
        (3, "stage_y_nm", "nan", "tiles.csv: row 3: stage_y_nm: not a finite number"),
        (2, "section", "3.5", "tiles.csv: row 2: section: not a whole number"),
        (2, "section", "-1", "tiles.csv: row 2: section: -1 is not in 0"),
        (5, "width_px", "0", "tiles.csv: row 5: width_px: 0 is not in 1"),
        (5, "width_px", "9" * 5000, "tiles.csv: row 5: width_px: not a whole number"),
        (4, "sha256", "12ab", "tiles.csv: row 4: sha256: not 64"),
        (3, "column", "0", "tiles.csv: row 3: row: section 3 has g0_r000_c000 in row 2 too"),
        (2, "section", "9000000", "tiles.csv: section: [0-9]+ of the indices"),
        (1, "width_px", "width", "tiles.csv: row 1: width_px: column is missing"),
        (1, "grid", "colour", "tiles.csv: row 1: colour: unknown column"),
        (1, "grid", "row", "tiles.csv: row 1: row: column is there twice"),
        (3, "path", "a,b", "tiles.csv: row 3: row: 11 fields where the header has 10"),
    ],
)
def test_bad_cells_name_row_and_field(
    tmp_path: Path, row: int, column: str, value: str, message: str
) -> None:
    make(tmp_path, images=False)
    edit_csv(tmp_path, row, column, value)
    with pytest.raises(AcquisitionError, match=message):
        read_acquisition(tmp_path)


@pytest.mark.parametrize(
    "path", ["../../x.tif", "s3/../../x.tif", "/etc/x.tif", "C:\\x.tif", "\\\\host\\x.tif", "..", "", "s3/.."]
)
def test_paths_that_leave_the_folder(tmp_path: Path, path: str) -> None:
    make(tmp_path / "a")
    edit_csv(tmp_path / "a", 3, "path", path)
    with pytest.raises(UnsafePathError, match=r"tiles.csv: row 3: path"):
        read_acquisition(tmp_path / "a")


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    make(tmp_path / "a")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "c0.tif").write_bytes(b"secret")
    (tmp_path / "a" / "file.tif").symlink_to(outside / "c0.tif")
    (tmp_path / "a" / "folder").symlink_to(outside)
    (tmp_path / "a" / "inner.tif").symlink_to(tmp_path / "a" / "s3" / "c0.tif")
    for name in ("file.tif", "folder/c0.tif"):
        edit_csv(tmp_path / "a", 2, "path", name)
        with pytest.raises(UnsafePathError, match=r"tiles.csv: row 2: path"):
            read_acquisition(tmp_path / "a")
    edit_csv(tmp_path / "a", 2, "path", "inner.tif")
    assert read_acquisition(tmp_path / "a").acquisition.sections[0].tiles[0].path == "inner.tif"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"voxel_size_zyx_nm": [40, 4]}, r"acquisition.json: voxel_size_zyx_nm\[2\]"),
        ({"voxel_size_zyx_nm": [40, 4, -4]}, r"acquisition.json: voxel_size_zyx_nm\[2\]"),
        ({"id": None}, "acquisition.json: id: Field required"),
        ({"id": "../x"}, "acquisition.json: id"),
        ({"schema": None}, "acquisition.json: schema: Field required"),
        ({"schema": "petavoxel.acquisition/2"}, "acquisition.json: schema"),
        ({"dtype": "float32"}, "acquisition.json: dtype"),
        ({"voxel": 3}, "acquisition.json: voxel: Extra inputs"),
        ({"sections": [5, 5]}, "acquisition.json: sections"),
        ({"sections": [4, 9]}, "tiles.csv: row 2: section: 3 is outside acquisition.json"),
        ({"aligned": True}, "tiles.csv: row 2: section: 3 has 2 tiles, an aligned stack has one"),
    ],
)
def test_bad_header_names_the_field(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    make(tmp_path, images=False)
    edit_json(tmp_path, **changes)
    with pytest.raises(AcquisitionError, match=message):
        read_acquisition(tmp_path)


def test_announced_sections_are_missed(tmp_path: Path) -> None:
    make(tmp_path, sections=(3, 5))
    edit_json(tmp_path, sections=[2, 8])
    assert read_acquisition(tmp_path).acquisition.missing_sections == (2, 4, 6, 7)
    subjects = [f.subject for f in check_acquisition(tmp_path).findings]
    assert subjects == ["section 2", "section 4", "sections 6 to 7"]


def test_unreadable_manifests(tmp_path: Path) -> None:
    make(tmp_path)
    cases = {
        "acquisition.json": [b"{", b"[]", b"\xff\xfe", b"", b'{"id": NaN}', b"[" * 100_000],
        "tiles.csv": [b"", b"\n", b"\xff\xfe\x00", b'section,"row', b"a\x00b"],
    }
    for name, contents in cases.items():
        kept = (tmp_path / name).read_bytes()
        for content in contents:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(AcquisitionError, match=name):
                read_acquisition(tmp_path)
        (tmp_path / name).write_bytes(kept)
    (tmp_path / "tiles.csv").unlink()
    with pytest.raises(AcquisitionError, match=r"tiles.csv: cannot be read"):
        read_acquisition(tmp_path)


def test_no_folder_and_unknown_layout(tmp_path: Path) -> None:
    with pytest.raises(AcquisitionError, match="no such folder"):
        read_acquisition(tmp_path / "none")
    with pytest.raises(AcquisitionError, match=r"known layout \(plain, sbemimage, serialem, multisem\)"):
        read_acquisition(tmp_path)


def test_check_reads_headers(tmp_path: Path) -> None:
    make(tmp_path, sections=(3, 4, 5))
    (tmp_path / "s3" / "c0.tif").unlink()
    data = (tmp_path / "s4" / "c1.tif").read_bytes()
    (tmp_path / "s4" / "c1.tif").write_bytes(data[:-100])
    edit_csv(tmp_path, 6, "height_px", "47")
    check = check_acquisition(tmp_path)
    found = [(f.code, f.subject) for f in check.findings]
    assert found == [
        ("missing", "s3/c0.tif: image"),
        ("truncated", "s4/c1.tif: image"),
        ("wrong_size", "s5/c0.tif: height_px, width_px"),
    ]
    assert not check.complete


@given(text=st.text(max_size=300), at=st.integers(0, 400), cut=st.integers(0, 40))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_gives_an_acquisition_or_an_acquisition_error(
    tmp_path: Path, text: str, at: int, cut: int
) -> None:
    if not any(tmp_path.iterdir()):
        make(tmp_path, images=False)
    for name in ("tiles.csv", "acquisition.json"):
        path = tmp_path / name
        whole = path.read_text()
        place = at % len(whole)
        path.write_bytes((whole[:place] + text + whole[place + cut :]).encode("utf-8", "surrogatepass"))
        try:
            read = read_acquisition(tmp_path)
        except AcquisitionError:
            continue
        finally:
            path.write_text(whole)
        assert isinstance(read.acquisition, Acquisition)


def test_a_large_list_is_read_in_seconds(tmp_path: Path) -> None:
    make(tmp_path, sections=tuple(range(200)), tiles=50, images=False)
    start = time.process_time()
    acquisition = read_acquisition(tmp_path).acquisition
    assert sum(len(s.tiles) for s in acquisition.sections) == 10_000
    assert time.process_time() - start < 5


@needs_fafb
def test_real_tiles_are_an_acquisition(tmp_path: Path) -> None:
    written = fafb_acquisition(tmp_path)
    assert read_acquisition(tmp_path).acquisition == written
    check = check_acquisition(tmp_path)
    assert (check.tiles, check.complete) == (12, True)
    assert set(fafb_reference()) == {tile.path for tile in written.sections[0].tiles}


def test_turned_and_scaled_tiles(tmp_path: Path) -> None:
    make(tmp_path, images=False)
    before = read_acquisition(tmp_path).acquisition
    first, *rest = before.sections
    own = {"rotation_deg": -7.5, "pixel_size_yx_nm": (6.0, 6.0)}
    tiles = (first.tiles[0].model_copy(update=own), *first.tiles[1:])
    turned = before.model_copy(
        update={"sections": (first.model_copy(update={"tiles": tiles}), *rest), "dtype": "uint8"}
    )
    plain.write(tmp_path, turned)
    assert read_acquisition(tmp_path).acquisition.sections == turned.sections
    edit_csv(tmp_path, 2, "pixel_nm", "0")
    with pytest.raises(AcquisitionError, match=r"tiles.csv: row 2: pixel_nm: not above 0"):
        read_acquisition(tmp_path)
    oblong = tiles[0].model_copy(update={"pixel_size_yx_nm": (6.0, 5.0)})
    odd = turned.model_copy(update={"sections": (first.model_copy(update={"tiles": (oblong,)}),)})
    with pytest.raises(AcquisitionError, match=r"pixel_nm: .*: pixels of 6.0 x 5.0 nm"):
        plain.write(tmp_path, odd)
