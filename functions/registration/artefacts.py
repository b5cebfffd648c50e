"""What a section shows where: tissue, resin, folds, cracks, charging; on cells of 8 x 8 px.

A fold is a long thin dark band, a crack a long thin band that is bright or masked (no picture at all; grey
values do not tell, since contrast normalisation may bring a fold to 0), charging an area in saturation or
rows that jump in brightness, resin an area without texture. A membrane is dark and long too,
but neither straight nor wide: only bands that hold a line of `LINE_PX` on cells of 4 px count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.artefacts import CHARGING, CRACK, FOLD, OUTSIDE, RESIN, TISSUE
from functions.registration.masks import CELL_PX, Gray, Image, Mask, noise_std, reduce_all, reduce_mean
from functions.registration.morphology import grown, opened, shrunk, without_holes

Codes = NDArray[np.uint8]

SUB_PX = 4
LINE_PX = 96
MIN_LENGTH_PX = 160
MIN_SLENDERNESS = 4.0
ANGLES = 24
FAR = 1.45
"""A band is further from the median than this many half-ranges (median to 16th or 84th percentile)."""
NEAR = 1.0
SATURATED_GRAY = 253
TAIL_PERCENT = 0.2
"""A band is further from the median than all but this share of the other cells: it is no tissue."""
SAMPLES = 1 << 16
"""Cells, spread evenly, that percentiles are taken of: they are good to 0.2 % of rank."""
RESIN_PX = 128
"""Resin holds a square of this side; smaller areas without texture are cytoplasm."""
_FAR_FIRST = np.array([-1, 11, 5, 17])
"""Cells of a line that are looked at first: far apart, so that they seldom are all there by chance."""
STREAK_CELLS = 49
"""Length of a streak, in cells."""
STREAK_GRAY = 12.0
STREAK_SIGMAS = 6.0
RESIN_SHARE = 0.35
RESIN_SIGNAL = 0.6


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What is kept of a strip: mean grey and usability on cells of 4 px, and on cells of 8 px the standard
    deviation, share of saturated pixels, and whether rows jump there. `noise` is in grey levels."""

    mean: Image
    used: Mask
    std: Image
    saturated: Image
    streaked: Mask
    noise: float


def summarise(image: Gray, mask: Mask) -> Summary:
    """Reduce a strip (Y, X) whose first row is a multiple of 8, so that large sections fit into memory.

    Args:
        mask: True where there is a picture; cells without are `OUTSIDE`.
    """
    mean = reduce_mean(image, CELL_PX)
    square = reduce_mean(np.square(image, dtype=np.uint16), CELL_PX)
    return Summary(
        mean=reduce_mean(image, SUB_PX),
        used=reduce_all(mask, SUB_PX),
        std=np.sqrt(np.maximum(square - mean**2, 0.0)),
        saturated=reduce_mean(image >= SATURATED_GRAY, CELL_PX),
        streaked=_streaks(image, mask),
        noise=noise_std(image, mask),
    )


def torn_cells(image: Gray, usable: Mask) -> Mask:
    """Cells of 8 px with a fold or crack in a tile; `usable` on the same cells. Cheaper than all codes."""
    used = np.repeat(np.repeat(usable, 2, axis=0), 2, axis=1)
    small = reduce_mean(image, SUB_PX)
    used = used[: small.shape[0], : small.shape[1]]
    if not used.any():
        return np.zeros_like(usable)
    dark, bright = _bands(small, used)
    return _coarse(dark | bright, usable.shape)


def classify(strips: Sequence[Summary]) -> Codes:
    """Codes of a section's cells of 8 x 8 px, (ceil(Y / 8), ceil(X / 8)), from its strips, top to bottom."""
    used_small = np.concatenate([s.used for s in strips])
    small = np.concatenate([s.mean for s in strips])
    std = np.concatenate([s.std for s in strips])
    saturated = np.concatenate([s.saturated for s in strips])
    streaked = np.concatenate([s.streaked for s in strips])
    used = _coarse(used_small, std.shape)
    codes = np.where(used, TISSUE, OUTSIDE).astype(np.uint8)
    if not used.any():
        return codes
    noise = float(np.median([s.noise for s in strips if s.used.any()]))
    codes[used & _resin(std, small, used, noise)] = RESIN
    codes[used & (opened(saturated > 0.5, 2) | streaked)] = CHARGING
    dark, bright = _bands(small, used_small)
    empty = dark & ~used_small
    # a black strip between two pieces of tissue belongs to no picture: masked, and yet a crack
    codes[_coarse(dark & ~empty, std.shape)] = FOLD
    codes[_coarse(bright | empty, std.shape)] = CRACK
    return codes


def _coarse(small: Mask, shape: tuple[int, ...]) -> Mask:
    """Cells of 8 px of which any sub-cell is True."""
    even = np.pad(small, [(0, 2 * n - s) for s, n in zip(small.shape, shape, strict=True)])
    out: Mask = np.asarray(even.reshape(shape[0], 2, shape[1], 2).any(axis=(1, 3)), dtype=np.bool_)
    return out


def _resin(std: Image, small: Image, used: Mask, noise: float) -> Mask:
    """Large areas with little variance beside the rest of the section, or with none above camera noise."""
    local = np.sqrt(ndimage.uniform_filter(np.where(used, std, 0.0) ** 2, 5))
    level = float(np.percentile(_some(local[used]), 75))
    even = np.pad(small, [(0, 2 * n - s) for s, n in zip(small.shape, std.shape, strict=True)], mode="edge")
    flat = even - ndimage.uniform_filter(even, 9)
    signal = np.sqrt(reduce_mean(ndimage.uniform_filter(flat**2, 9), 2))
    empty = (local <= RESIN_SHARE * level) | (signal <= RESIN_SIGNAL * noise)
    side = RESIN_PX // CELL_PX
    large = opened(np.pad(empty | ~used, side, mode="edge"), side)
    out: Mask = large[side:-side, side:-side] & empty
    return out


def _streaks(gray: Gray, mask: Mask) -> Mask:
    """Cells in which rows are brighter or darker than the rows above and below over a long way (charging)."""
    if gray.shape[1] < STREAK_CELLS * CELL_PX or gray.shape[0] < 9:
        return np.zeros([-(-n // CELL_PX) for n in gray.shape], dtype=bool)
    cells = _row_cells(gray if mask.all() else np.where(mask, gray, np.uint8(0)))
    along = ndimage.uniform_filter1d(cells, STREAK_CELLS, axis=1)
    whole = _row_runs(mask)
    jump = along - _median_of_five(along)
    spread = 1.4826 * float(np.median(np.abs(_some(jump[whole])))) if whole.any() else 0.0
    found = whole & (np.abs(jump) > max(STREAK_GRAY, STREAK_SIGMAS * spread))
    starts = np.arange(0, len(found), CELL_PX)
    out: Mask = np.logical_or.reduceat(found, starts, axis=0)
    return out


def _row_runs(mask: Mask) -> Mask:
    """Where all pixels of `STREAK_CELLS` cells of 8 columns about a cell are True; mirrored at the border."""
    wide = np.pad(mask, ((0, 0), (0, -mask.shape[1] % CELL_PX)), mode="edge")
    cells = np.logical_and.reduce([wide[:, k::CELL_PX] for k in range(CELL_PX)])
    half = STREAK_CELLS // 2
    out: Mask = ~grown(~np.pad(cells, ((0, 0), (half, half)), mode="symmetric"), half, axes=(1,))
    return out[:, half:-half]


def _row_cells(values: Gray) -> Image:
    """Means of 8 columns (Y, ceil(X / 8)); the last may be of fewer."""
    height, width = values.shape
    sums = np.zeros((height, -(-width // CELL_PX)), np.uint16)
    for k in range(min(CELL_PX, width)):
        column = values[:, k::CELL_PX]
        sums[:, : column.shape[1]] += column
    widths = np.minimum(CELL_PX, width - CELL_PX * np.arange(sums.shape[1])).astype(np.float32)
    return np.asarray(sums / widths, dtype=np.float32)


def _median_of_five(rows: Image) -> Image:
    """Median of each row with the two above and below, by comparisons alone; the border is mirrored."""
    wide = np.pad(rows, ((2, 2), (0, 0)), mode="symmetric")
    a, b, c, d, e = (wide[k : k + len(rows)] for k in range(5))
    low, high, least, most = np.minimum(a, b), np.maximum(a, b), np.minimum(d, e), np.maximum(d, e)
    # in place: fresh memory costs ten times what comparing does
    np.maximum(low, least, out=low)
    np.minimum(high, most, out=high)
    np.minimum(low, high, out=least)
    np.maximum(low, high, out=most)
    # of c and the middle ones, the median
    np.minimum(most, c, out=most)
    np.maximum(least, most, out=least)
    return least


def _bands(small: Image, used: Mask) -> tuple[Mask, Mask]:
    """Long thin dark and bright bands, on cells of 4 px."""
    low, middle, high = (float(v) for v in np.percentile(_some(small[used]), [16, 50, 84]))
    inner = used
    if not used.all():
        inner = shrunk(without_holes(used), 1)
    out = []
    for score in ((middle - small) / max(middle - low, 1.0), (small - middle) / max(high - middle, 1.0)):
        far, near = (score > FAR) & inner, (score > NEAR) & inner
        lines = _line_opening(opened(far, 2), LINE_PX // SUB_PX)
        if not lines.any():
            out.append(lines)
            continue
        core = _slender(lines, score, used)
        out.append(near & grown(core, 2))
    return out[0], out[1]


def _some(values: Image) -> Image:
    """Of many values (N,) `SAMPLES`, spread evenly."""
    return values[:: max(1, len(values) // SAMPLES)]


def _line_opening(cells: Mask, length: int) -> Mask:
    """What of a mask a straight line of `length` cells fits into, in any of 24 directions.

    A line lies in one connected part, so parts are looked at by themselves, and small ones not at all.
    """
    out = np.zeros_like(cells)
    labels, count = ndimage.label(cells, np.ones((3, 3), bool))
    shortest = np.rint((length - 1) * np.sin(np.pi / 4)) + 1
    for index, box in enumerate(ndimage.find_objects(labels) if count else [], start=1):
        if max(s.stop - s.start for s in box) >= shortest:
            out[box] |= _lines_in(labels[box] == index, length)
    return out


def _lines_in(part: Mask, length: int) -> Mask:
    """What of one part a straight line fits into. Places where one may begin are few, and soon fewer."""
    wide = np.pad(part, length)
    cells, drawn = wide.ravel(), np.zeros(wide.size, dtype=np.bool_)
    begin = np.flatnonzero(cells)
    for steps in _lines(length) @ np.array([wide.shape[1], 1]):
        fits = begin
        for step in steps[_FAR_FIRST % length]:
            fits = fits[cells[fits + step]]
            if not len(fits):
                break
        else:
            for step in steps:
                fits = fits[cells[fits + step]]
            drawn[fits[:, None] + steps] = True
    return drawn.reshape(wide.shape)[length:-length, length:-length]


@lru_cache
def _lines(length: int) -> NDArray[np.int64]:
    """Rows and columns (24, length, 2) of the cells of a line in each direction."""
    angles = np.arange(ANGLES) * np.pi / ANGLES
    along = np.stack([np.sin(angles), np.cos(angles)], axis=1)[:, None, :] * np.arange(length)[:, None]
    return np.rint(along).astype(np.int64)


def _slender(cells: Mask, score: Image, used: Mask) -> Mask:
    """The connected parts that are long, much longer than wide, and unlike what else there is."""
    labels, count = ndimage.label(cells, np.ones((3, 3), bool))
    others = score[used & ~grown(cells, 2)]
    limit = float(np.percentile(others, 100.0 - TAIL_PERCENT)) if others.size else np.inf
    out = np.zeros_like(cells)
    boxes = ndimage.find_objects(labels) if count else []
    for index, box in enumerate(boxes, start=1):
        part = labels[box] == index
        length = float(np.hypot(*part.shape)) * SUB_PX
        width = 2.0 * SUB_PX * float(ndimage.distance_transform_edt(np.pad(part, 1)).max())
        slender = length >= MIN_LENGTH_PX and length >= MIN_SLENDERNESS * width
        if slender and float(np.median(score[box][part])) > limit:
            out[box] |= part
    return out
