"""Raw camera tiles of one section of the adult fly brain as a plain acquisition (test data only)."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from functions.microscopes import plain
from functions.model.acquisition import Acquisition, Section, Tile

FAFB = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "fafb_tiles"
PIXEL_NM = 4.0
SECTION_NM = 40.0
SHAPE_YX = (2160, 2560)

needs_fafb = pytest.mark.skipif(
    not (FAFB / "tiles.csv").exists(), reason="the folder data/fafb_tiles is absent"
)


def _rows() -> list[dict[str, str]]:
    with open(FAFB / "tiles.csv", newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def fafb_acquisition(folder: Path) -> Acquisition:
    """Write a plain acquisition of the 12 tiles into `folder`; stage positions start at 0."""
    rows = _rows()
    left = min(float(row["stage_x_px"]) for row in rows)
    top = min(float(row["stage_y_px"]) for row in rows)
    (folder / "tiles").mkdir(parents=True, exist_ok=True)
    tiles = []
    for row in rows:
        _link(FAFB / "tiles" / row["file"], folder / "tiles" / row["file"])
        place = (float(row["stage_y_px"]) - top) * PIXEL_NM, (float(row["stage_x_px"]) - left) * PIXEL_NM
        tiles.append(
            Tile(
                row=int(row["grid_b"]),
                column=int(row["grid_a"]),
                path=f"tiles/{row['file']}",
                stage_yx_nm=place,
                shape_yx=SHAPE_YX,
            )
        )
    tiles.sort(key=lambda tile: (tile.row, tile.column))
    acquisition = Acquisition(
        id="fafb-tiles",
        instrument="TEMCA2",
        layout=plain.NAME,
        voxel_size_zyx_nm=(SECTION_NM, PIXEL_NM, PIXEL_NM),
        stage_uncertainty_px=100.0,
        dtype="uint8",
        sections=(Section(z=0, tiles=tuple(tiles)),),
    )
    plain.write(folder, acquisition)
    return acquisition


def fafb_reference() -> dict[str, NDArray[np.float64]]:
    """The published affine of each tile by path: 2 x 3 in (y, x, 1), local (y, x) px to montage (y, x) px."""
    reference = {}
    for row in _rows():
        value = {name: float(row[f"reference_{name}"]) for name in ("a11", "a12", "a21", "a22")}
        reference[f"tiles/{row['file']}"] = np.array(
            [
                [value["a22"], value["a21"], float(row["reference_ty_px"])],
                [value["a12"], value["a11"], float(row["reference_tx_px"])],
            ]
        )
    return reference


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy on another file system: a symbolic link would lead out of the folder."""
    if target.exists():
        return
    try:
        os.link(source, target)
    except OSError:
        target.write_bytes(source.read_bytes())
