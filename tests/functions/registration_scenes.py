"""Small scenes with known truth for the tests of stitch and align: textured planes cut into tiles or
sections."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.parameters import Parameters, StitchParameters
from functions.registration.measure import measure_tiles
from functions.registration.mosaic import Mosaic, solve_tiles
from functions.store.files import fingerprint, sha256_file, write_json
from functions.store.images import write_tile
from functions.store.run import IngestedSection, IngestManifest, Run
from functions.store.transforms import load_layout, open_section
from functions.tasks import RunSpec

VOXEL_ZYX_NM = (40.0, 4.0, 4.0)


def scene(shape: tuple[int, int], seed: int = 0) -> NDArray[np.float32]:
    """Cell-like texture: borders between random regions, blurred, of mean 128 and standard deviation 30."""
    rng = np.random.default_rng(seed)
    image = ndimage.gaussian_filter(rng.normal(size=shape), 6.0)
    fine = ndimage.gaussian_filter(rng.normal(size=shape), 1.6)
    membranes = -np.exp(-((image / image.std()) ** 2) / 0.05)
    out = 128 + 45 * membranes + 18 * fine / fine.std()
    return np.clip(out, 5, 250).astype(np.float32)


def tile(row: int, column: int, path: str, stage_yx_px: Sequence[float], shape: tuple[int, ...]) -> Tile:
    """A tile whose stage position is given in pixels."""
    y, x = (float(v) * VOXEL_ZYX_NM[1] for v in stage_yx_px)
    return Tile(row=row, column=column, path=path, stage_yx_nm=(y, x), shape_yx=(shape[0], shape[1]))


def start(
    work: Path,
    folder: Path,
    sections: Sequence[Section],
    *,
    uncertainty_px: float = 15.0,
    aligned: bool = False,
    parameters: Parameters | None = None,
) -> Run:
    """A run whose ingest manifest is written as ingest would."""
    run = Run(RunSpec(work=str(work), acquisition=str(folder), parameters=parameters or Parameters()))
    acquisition = Acquisition(
        id="scene",
        instrument="test",
        layout="test",
        voxel_size_zyx_nm=VOXEL_ZYX_NM,
        stage_uncertainty_px=uncertainty_px,
        aligned=aligned,
        sections=tuple(sections),
    )
    manifest = IngestManifest(
        acquisition=acquisition,
        sections=tuple(_ingested(folder, s) for s in sections),
    )
    write_json(run.manifest_path, manifest.to_json())
    return run


def stitch_tiles(
    stage_yx_px: NDArray[np.float64],
    read: Callable[[int], NDArray[np.uint8]],
    parameters: StitchParameters,
    *,
    uncertainty_px: float,
) -> Mosaic:
    """Measure and solve a section of tiles, as `functions.stitch` does with those of a run."""
    measured = measure_tiles(stage_yx_px, read, parameters, uncertainty_px=uncertainty_px)
    return solve_tiles(measured, parameters, uncertainty_px=uncertainty_px)


def section_pixels(run: Run, section_id: str) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """All pixels of a stitched section: image (Y, X) and mask."""
    image, mask = open_section(run, load_layout(run, section_id))
    return image[:, :].astype(np.uint8, copy=False), mask[:, :].astype(np.bool_, copy=False)


def _ingested(folder: Path, section: Section) -> IngestedSection:
    checksums = tuple(sha256_file(folder / t.path) for t in section.tiles)
    return IngestedSection(
        section=section, fingerprint=fingerprint(section.to_json(), checksums), sha256=checksums
    )


def write_montage(
    folder: Path,
    *,
    z: int = 0,
    grid: tuple[int, int] = (2, 3),
    size: int = 160,
    overlap: int = 36,
    jitter_px: float = 5.0,
    seed: int = 0,
) -> tuple[Section, NDArray[np.float64]]:
    """Tiles of one scene with gain, offset and noise of their own; the section and true corners (N, 2)."""
    rng = np.random.default_rng(seed)
    step, margin = size - overlap, 24
    plane = scene((grid[0] * step + overlap + 2 * margin, grid[1] * step + overlap + 2 * margin), seed)
    tiles, corners = [], []
    for row, column in np.ndindex(*grid):
        nominal = np.array([row, column], dtype=np.float64) * step
        true = np.rint(nominal + rng.uniform(-jitter_px, jitter_px, 2)) + margin
        y, x = int(true[0]), int(true[1])
        cut = plane[y : y + size, x : x + size] * rng.normal(1, 0.05) + rng.normal(0, 5)
        pixels = np.clip(np.rint(cut + rng.normal(0, 4, cut.shape)), 1, 255).astype(np.uint8)
        path = f"tiles/s{z:04d}_r{row}_c{column}.tif"
        write_tile(folder / path, pixels)
        tiles.append(tile(row, column, path, nominal, pixels.shape))
        corners.append(true)
    return Section(z=z, tiles=tuple(tiles)), np.array(corners)
