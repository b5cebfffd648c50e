"""Measure what the images of a registered stack say, section by section and pair by pair.

Each measurement has a cell whose key knows no limit, and is made once. A section takes seconds: overlaps at
half resolution where tiles are large, aligned sections at about 12 nm or 1500 px.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np

from functions.model.geometry import Box
from functions.model.transform import SectionLayout
from functions.registration.evidence import (
    Plane,
    Windows,
    compare,
    placed,
    seam_factor,
    seam_windows,
    section_factor,
    section_plane,
    tile_plane,
)
from functions.registration.keeping import in_turn
from functions.registration.masks import Image, Mask, enlarge, reduce_mean, tile_masks
from functions.store.cells import UnitReport
from functions.store.evidence import save_pair, save_seams
from functions.store.run import Run
from functions.store.tiles import TileReader
from functions.store.transforms import KINDS, load_layout, load_transform, section_volume
from functions.store.volumes import Volume

SEAMS = "seams"
STRIP_PX = 512
MOSTLY = 0.8
Drawn = dict[str, tuple[Image, Mask]]


def measure_seams(run: Run, layout: SectionLayout) -> None:
    """Compare the tiles of a section along their seams, unless that was done.

    Raises:
        AcquisitionError: a tile cannot be read any more.
    """
    run.seam_evidence_cell(layout.section).run_unit(SEAMS, partial(_seams, run, layout))


def measure_pairs(run: Run) -> None:
    """Compare the aligned sections that follow each other, those that were not compared yet.

    Raises:
        VolumeError: a stitched section or a transform is missing or damaged.
    """
    drawn: Drawn = {}
    for a, b in pairwise(run.sections):
        names = (a.section.id, b.section.id)
        drawn = {name: drawn[name] for name in names if name in drawn}  # at most two at a time
        run.pair_evidence_cell.run_unit("-".join(names), partial(_pair, run, names, drawn))


def _seams(run: Run, layout: SectionLayout) -> UnitReport:
    """Windows of each seam of a section."""
    entry = next(s for s in run.sections if s.section.id == layout.section)
    reader = TileReader(run.acquisition_folder, entry.section, cache_bytes=0)  # each is read once
    index = {tile.id: k for k, tile in enumerate(entry.section.tiles)}

    def plane(name: str) -> Plane:
        pixels = reader.image(index[name])
        factor = seam_factor((pixels.shape[0], pixels.shape[1]))
        seen = enlarge(tile_masks(pixels).textured, (pixels.shape[0], pixels.shape[1]))
        mask = reduce_mean(seen, factor) > MOSTLY
        return tile_plane(reduce_mean(pixels, factor), mask, factor)

    planes = in_turn([(s.a, s.b) for s in layout.seams], plane)
    windows = [
        seam_windows(a, layout.tile(s.a).warp, b, layout.tile(s.b).warp)
        for s, (a, b) in zip(layout.seams, planes, strict=True)
    ]
    save_seams(run, layout.section, windows)
    return UnitReport(figures={"seams": float(len(windows)), "windows": float(sum(map(len, windows)))})


def _pair(run: Run, names: tuple[str, str], drawn: Drawn) -> UnitReport:
    """Windows of two sections; `drawn` keeps what was read."""
    for name in names:
        if name not in drawn:
            drawn[name] = _aligned_plane(run, name)
    factor = _factor(run)
    windows: Windows = compare(*drawn[names[0]], *drawn[names[1]], factor=factor)
    save_pair(run, "-".join(names), windows)
    return UnitReport(figures={"windows": float(len(windows))})


def _aligned_plane(run: Run, section_id: str) -> tuple[Image, Mask]:
    """A section where its transform puts it, reduced and band-passed, with its mask."""
    shape, factor = run.aligned.volume.shape_zyx[1:], _factor(run)
    image, mask = _reduced(run, load_layout(run, section_id), factor)
    return placed(
        section_plane(image, mask, factor),
        load_transform(run, section_id).warp,
        corner_yx=(0.0, 0.0),
        shape_yx=(-(-shape[0] // factor), -(-shape[1] // factor)),
        factor=factor,
    )


def _factor(run: Run) -> int:
    volume = run.aligned.volume
    return section_factor(volume.shape_zyx[1:], min(volume.voxel_size_zyx_nm[1:]))


def _reduced(run: Run, layout: SectionLayout, factor: int) -> tuple[Image, Mask]:
    """A stitched section at reduced resolution, read in strips."""
    rows = factor * -(-STRIP_PX // factor)
    planes = []
    for kind in KINDS:
        volume = Volume.open(run.work, section_volume(run, layout.section, kind, layout.shape_yx))
        strips = [reduce_mean(volume.read(box)[0], factor) for box in _strips(layout.shape_yx, rows)]
        planes.append(np.concatenate(strips))
    return planes[0], planes[1] > MOSTLY


def _strips(shape_yx: tuple[int, int], rows: int) -> list[Box]:
    height, width = shape_yx
    return [
        Box(offset_zyx=(0, top, 0), shape_zyx=(1, min(rows, height - top), width))
        for top in range(0, height, rows)
    ]
