"""How far a pipeline's placement of a phantom acquisition is from the truth.

A placement is a function `place(section, row, column, points_yx) -> points_yx`: tile pixels to pixels of
the frame in question, the stitched section or the aligned volume; NaN for a tile or section left out. No
frame is privileged: two tiles, or two sections, are compared by where they put the same tissue, so a
common shift costs nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import LinearNDInterpolator
from skimage.measure import label as connected_components

from functions.testing.truth import Points, Truth

Place = Callable[[int, int, int, Points], Points]


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """Distances (N,) in pixels between two placements of the same tissue."""

    distances_px: NDArray[np.float64]

    @property
    def p95(self) -> float:
        """The 95th percentile; NaN without any distance."""
        return float(np.percentile(self.distances_px, 95)) if self.distances_px.size else float("nan")

    @property
    def median(self) -> float:
        """The median; NaN without any distance."""
        return float(np.median(self.distances_px)) if self.distances_px.size else float("nan")


def stitch_residual_px(truth: Truth, place: Place, *, spacing_px: int = 8) -> Residual:
    """Over the overlaps of neighbouring tiles of a section: distance between their placements of a point."""
    distances = [np.empty(0)]
    points = _grid(truth.tile_shape_yx, spacing_px)
    for section in range(truth.sections):
        for row, column in truth.tiles:
            for other in ((row + 1, column), (row, column + 1)):
                if other not in truth.tiles:
                    continue
                there = truth.section_to_tile(
                    section, *other, truth.tile_to_section(section, row, column, points)
                )
                both = truth.inside_tile(there)
                gap = place(section, row, column, points[both]) - place(section, *other, there[both])
                distances.append(_lengths(gap))
    return Residual(distances_px=np.concatenate(distances))


def align_residual_px(truth: Truth, place: Place, *, spacing_px: int = 8) -> Residual:
    """Between neighbouring sections: distance between the placements of a phantom point seen by both."""
    distances = [np.empty(0)]
    points = _grid(truth.labels.shape[1:], spacing_px)
    placed = [_place_phantom(truth, place, section, points) for section in range(truth.sections)]
    distances += [_lengths(below - above) for below, above in pairwise(placed)]
    return Residual(distances_px=np.concatenate(distances))


def map_truth_labels(
    truth: Truth, place: Place, shape_zyx: tuple[int, int, int], *, spacing_px: int = 6
) -> NDArray[np.uint32]:
    """The true labels in the frame of the aligned volume, whose section z is the acquisition's section z.

    Points on a grid of every tile go through `place`; between them the way back to the phantom is an
    affine plus a linearly interpolated rest. Bodies that the volume's border cuts in two are two bodies:
    every label is one face-connected component. Voxels no tile has seen are 0.
    """
    labels = np.zeros(shape_zyx, np.uint32)
    points = _grid(truth.tile_shape_yx, spacing_px)
    for section in range(min(truth.sections, shape_zyx[0])):
        placed = np.concatenate([place(section, r, c, points) for r, c in truth.tiles])
        phantom = np.concatenate([truth.tile_to_phantom(section, r, c, points) for r, c in truth.tiles])
        labels[section] = _resample(truth.labels[section], placed, phantom, shape_zyx[1:])
    return np.asarray(connected_components(labels, background=0, connectivity=1), np.uint32)


def _resample(
    labels: NDArray[np.uint32], placed: Points, phantom: Points, shape_yx: tuple[int, ...]
) -> NDArray[np.uint32]:
    """`labels` (Y, X) seen from the frame in which `phantom` (N, 2) points were `placed` (N, 2)."""
    known = np.isfinite(placed).all(1)
    placed, phantom = placed[known], phantom[known]
    if len(placed) < 3:
        return np.zeros(shape_yx, np.uint32)
    design = np.concatenate([placed, np.ones((len(placed), 1))], 1)
    affine = np.linalg.lstsq(design, phantom, rcond=None)[0]
    step = 4
    nodes = [np.arange(0, n + step, step) for n in shape_yx]
    coarse = np.stack(np.meshgrid(*nodes, indexing="ij"), -1).reshape(-1, 2).astype(float)
    _, unique = np.unique(np.round(placed, 3), axis=0, return_index=True)
    rest = LinearNDInterpolator(placed[unique], (phantom - design @ affine)[unique])(coarse)
    rest = rest.reshape(len(nodes[0]), len(nodes[1]), 2)
    seen = np.isfinite(rest).all(-1)
    rest[~seen] = 0
    pixels = np.stack(np.meshgrid(*(np.arange(n) for n in shape_yx), indexing="ij"), 0).astype(float)
    fine = [ndimage.map_coordinates(rest[..., axis], pixels / step, order=1) for axis in range(2)]
    covered = ndimage.map_coordinates(seen.astype(float), pixels / step, order=1) > 0.999
    straight = np.tensordot(affine[:2].T, pixels, 1) + affine[2][:, None, None]
    y, x = (np.rint(s + f).astype(int) for s, f in zip(straight, fine, strict=True))
    height, width = labels.shape
    covered &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
    found = np.zeros(shape_yx, np.uint32)
    found[covered] = labels[y[covered], x[covered]]
    return found


def _place_phantom(truth: Truth, place: Place, section: int, points: Points) -> Points:
    """Where phantom points (N, 2) of a section are placed, by the first tile that sees them; NaN for none."""
    placed = np.full(points.shape, np.nan)
    on_section = truth.phantom_to_section(section, points)
    for row, column in truth.tiles:
        on_tile = truth.section_to_tile(section, row, column, on_section)
        use = truth.inside_tile(on_tile) & np.isnan(placed[:, 0])
        if use.any():
            placed[use] = place(section, row, column, on_tile[use])
    return placed


def _lengths(gaps: Points) -> NDArray[np.float64]:
    """Lengths of the differences (N, 2) that are known."""
    return np.asarray(np.linalg.norm(gaps[np.isfinite(gaps).all(1)], axis=1))


def _grid(shape_yx: tuple[int, ...], spacing_px: int) -> Points:
    """Points (N, 2) every `spacing_px` pixels, the borders included."""
    axes = [np.unique(np.append(np.arange(0, n, spacing_px), n - 1)) for n in shape_yx]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2).astype(float)
