"""Hand the geometry of a run to other programs.

native         everything, see `functions.store.transform_files`
relative-map   map.npz: where the volume's pixels come from in the stitched sections, as SOFIMA's
               `warp_subvolume` takes it: `map` (2, Z, Y, X) float32, x before y, in px and relative to the
               node itself; node (j, i) stands at pixel (j * stride, i * stride); nan where nothing is
landmarks      one CSV a registered pair, as BigWarp reads it: name, active, moving x, y, fixed x, y; moving
               is the second section of the pair, fixed the first, in px of the stitched sections
render-ws      tilespecs.json, as render-ws imports it: raw tiles with one affine map each into the volume,
               which leaves out the sheets; tilespecs.notes.json says by how many px at most
"""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functions.model.acquisition import Tile
from functions.model.base import Document
from functions.model.chain import Chain
from functions.model.errors import VolumeError, safe_join
from functions.store.files import atomic_path, write_bytes, write_json
from functions.store.run import Run
from functions.store.transform_files import write_transforms
from functions.store.transforms import load_layout, load_transform, read_arrays, write_arrays

Form = Literal["native", "relative-map", "landmarks", "render-ws"]
AFFINE = "mpicbg.trakem2.transform.AffineModel2D"
FIT_NODES = 17
MAP_NOTE = {
    "format": "petavoxel.relative-map/1",
    "map": "(2, Z, Y, X) float32: x, then y; px; source = node * stride_px + map[:, z, j, i]",
    "direction": "inverse: from px of the volume to px of the stitched section, where its pixels are read",
    "pixel_centre": "whole coordinates",
    "nan": "nothing lies there; a row of nan alone is a missing section",
}


class Exported(Document):
    """What was written; `points` are nodes of the map, landmarks, or tiles of render-ws."""

    sections: int
    files: int
    bytes: int
    points: int = 0
    max_error_px: float | None = None
    """How far a tile's affine map is from the truth at most; None where the maps are exact."""


def export(run: Run, folder: Path, *, form: Form, stride_px: int = 32) -> Exported:
    """Write the transforms into a new folder.

    Raises:
        VolumeError: the folder exists, a transform is missing, or no pair was registered (landmarks).
        UpstreamError: the stack is not solved.
    """
    if folder.exists():
        raise VolumeError(f"{folder}: exists", remedy="give another folder, or remove it first")
    points, error_px = 0, None
    with atomic_path(folder) as partial:
        partial.mkdir()
        if form == "native":
            write_transforms(run, partial)
        elif form == "relative-map":
            points = _write_map(run, partial, stride_px)
        elif form == "landmarks":
            points = _write_landmarks(run, partial)
        else:
            points, error_px = _write_tile_specs(run, partial)
        files = [path for path in partial.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    return Exported(
        sections=len(run.sections), files=len(files), bytes=size, points=points, max_error_px=error_px
    )


def relative_map(run: Run, stride_px: int) -> NDArray[np.float32]:
    """Inverse relative map (2, Z, NY, NX) of the volume; nodes reach its last pixel."""
    depth, height, width = run.aligned.volume.shape_zyx
    axes = [np.arange(-(-(n - 1) // stride_px) + 1, dtype=np.float64) * stride_px for n in (height, width)]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    out = np.full((2, depth, len(axes[0]), len(axes[1])), np.nan, dtype=np.float32)
    rows = {z: row for row, z in enumerate(run.aligned.sections)}
    for entry in run.sections:
        transform = load_transform(run, entry.section.id)
        source = Chain(warps=(transform.warp,)).inverse(grid.reshape(-1, 2)).reshape(grid.shape)
        out[:, rows[entry.section.z]] = np.moveaxis((source - grid)[..., ::-1], -1, 0)
    return out


def _write_map(run: Run, folder: Path, stride_px: int) -> int:
    found = relative_map(run, stride_px)
    write_arrays(folder / "map.npz", {"map": found, "stride_px": np.array(stride_px)})
    note = {
        **MAP_NOTE,
        "stride_px": stride_px,
        "shape_zyx": run.aligned.volume.shape_zyx,
        "voxel_size_zyx_nm": run.aligned.volume.voxel_size_zyx_nm,
        "sections": run.aligned.sections,
    }
    write_json(folder / "map.json", note)
    return int(np.isfinite(found[0]).sum())


def _write_landmarks(run: Run, folder: Path) -> int:
    count = 0
    for unit in run.pairs:
        fixed, moving = read_arrays(run.cell("align_pairs", unit).file("match.npz"), "a_yx", "b_yx")
        if not len(fixed):
            continue
        text = io.StringIO()
        writer = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        for k, (f, m) in enumerate(zip(fixed.tolist(), moving.tolist(), strict=True)):
            places = (m[1], m[0], f[1], f[0])
            writer.writerow([f"Pt-{k}", "true", *(f"{v:.4f}" for v in places)])
        write_bytes(folder / f"{unit}.csv", text.getvalue().encode())
        count += len(fixed)
    if not count:
        raise VolumeError(
            "no pair of sections was registered, so there are no landmarks",
            remedy="export the native form: an aligned stack has nothing else",
        )
    return count


def fit_affine(chain: Chain, shape_yx: tuple[int, int]) -> tuple[NDArray[np.float64], float]:
    """The affine map (2, 3) closest to a chain over a tile, and its largest error on the grid it was fitted
    on, px."""
    axes = [np.linspace(0, n - 1, FIT_NODES) for n in shape_yx]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    design = np.concatenate([points, np.ones((len(points), 1))], axis=1)
    there = chain.apply(points)
    affine = np.linalg.lstsq(design, there, rcond=None)[0].T
    return affine, float(np.linalg.norm(design @ affine.T - there, axis=1).max())


def _write_tile_specs(run: Run, folder: Path) -> tuple[int, float]:
    """Write the tiles of all sections; returns how many, and the largest error of their maps."""
    specs, errors = [], {}
    for entry in run.sections:
        layout, warp = load_layout(run, entry.section.id), load_transform(run, entry.section.id).warp
        for tile in entry.section.tiles:
            placed = layout.tile(tile.id)
            affine, error = fit_affine(Chain(warps=(placed.warp, warp)), tile.shape_yx)
            name = f"{entry.section.id}_{tile.id}"
            specs.append(_tile_spec(run, name, entry.section.z, tile, affine))
            errors[name] = round(error, 4)
    write_json(folder / "tilespecs.json", specs)
    note = {"format": "petavoxel.tilespecs/1", "pixel_centre": "whole coordinates", "max_error_px": errors}
    write_json(folder / "tilespecs.notes.json", note)
    return len(specs), max(errors.values())


def _tile_spec(run: Run, name: str, z: int, tile: Tile, affine: NDArray[np.float64]) -> dict[str, object]:
    """One tile as render-ws has it: x before y; the matrix column by column."""
    (yy, yx, ty), (xy, xx, tx) = affine.tolist()
    url = safe_join(run.acquisition_folder, tile.path, field=f"{name}: path").as_uri()
    return {
        "tileId": name,
        "layout": {"sectionId": f"{float(z)}", "imageRow": tile.row, "imageCol": tile.column},
        "z": float(z),
        "width": float(tile.shape_yx[1]),
        "height": float(tile.shape_yx[0]),
        "minIntensity": 0.0,
        "maxIntensity": 255.0,
        "mipmapLevels": {"0": {"imageUrl": url}},
        "transforms": {
            "type": "list",
            "specList": [
                {
                    "type": "leaf",
                    "className": AFFINE,
                    "dataString": " ".join(f"{v:.10g}" for v in (xx, yx, xy, yy, tx, ty)),
                }
            ],
        },
    }
