"""How a section is turned and moved against another: a scan of rotations on thumbnails.

Levels are halvings: pixel r of level f is the mean of f x f pixels and has its centre at r * f + (f - 1) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from functions.model.transform import Warp
from functions.registration.masks import Gray, Image, Mask, band_pass, reduce_mean
from functions.registration.warp import dense_coordinates, pull

Floats = NDArray[np.float64]
SCAN_STEP_DEG = 1.5
MIN_COMMON = 0.4
MIN_SCORE = 0.12
MIN_MARGIN = 0.12


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A rigid map a -> b (2, 3) from thumbnails, its correlation, and how far that stands out (0..1)."""

    affine: Floats
    score: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One section, reduced: grey values and mask."""

    image: Image
    mask: Mask
    factor: int


def reduce_section(image: Gray, mask: Mask, factor: int) -> Level:
    """Means of blocks; a block is usable when most of it is."""
    return Level(image=reduce_mean(image, factor), mask=reduce_mean(mask, factor) > 0.8, factor=factor)


def scan_rotations(a: Level, b: Level, *, max_rotation_deg: float) -> Guess | None:
    """Try rotations, all translations for each by FFT; all the way round only if none of the near ones
    stands out."""
    f = a.factor
    fixed = band_pass(a.image, a.mask, fine_px=1.0, coarse_px=6.0)
    shape = tuple(n + m + 1 for n, m in zip(a.image.shape, (_diagonal(b),) * 2, strict=True))
    fast = [fft.next_fast_len(n, real=True) for n in shape]
    spectra = [np.conj(fft.rfft2(x.astype(np.float32), fast)) for x in (fixed, fixed**2, a.mask)]
    near = np.arange(-max_rotation_deg, max_rotation_deg + 0.5 * SCAN_STEP_DEG, SCAN_STEP_DEG)
    best = max((_try_rotation(spectra, fast, b, d) for d in near), default=None, key=lambda r: r.score)
    if best is None or best.score < MIN_SCORE or best.margin < MIN_MARGIN:
        far = np.arange(-180.0, 180.0, 2 * SCAN_STEP_DEG)
        others = [_try_rotation(spectra, fast, b, d) for d in far]
        best = max([*others, *([best] if best else [])], key=lambda r: r.score)
    for step in (SCAN_STEP_DEG, SCAN_STEP_DEG / 2, SCAN_STEP_DEG / 4):
        for side in (-step, step):
            other = _try_rotation(spectra, fast, b, best.degrees + side)
            best = other if other.score > best.score else best
    if best.score <= 0:
        return None
    affine = _full_affine(best, b, f)
    return Guess(affine=affine, score=round(best.score, 4), margin=round(best.margin, 4))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    degrees: float
    shift: tuple[int, int]
    score: float
    margin: float


def _diagonal(b: Level) -> int:
    return int(np.ceil(np.hypot(*b.image.shape))) + 2


def _turned(b: Level, degrees: float) -> tuple[Floats, int]:
    """Map (2, 3) from the pixels of a square that holds the turned thumbnail to the thumbnail, and its
    side."""
    side = _diagonal(b)
    t = np.deg2rad(degrees)
    linear = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
    centre = (np.array(b.image.shape) - 1) / 2.0
    return np.concatenate([linear, (centre - linear @ np.full(2, (side - 1) / 2.0))[:, None]], axis=1), side


def _try_rotation(spectra: list[NDArray[np.complex64]], fast: list[int], b: Level, degrees: float) -> _Trial:
    """Best translation of the thumbnail turned by `degrees`; correlation normalised by the common energy."""
    affine, side = _turned(b, degrees)
    coordinates = dense_coordinates(Warp(affine=affine).apply, (0, 0), (side, side))
    turned, mask = pull(b.image, b.mask, coordinates, (slice(0, 1 << 30), slice(0, 1 << 30)))
    moving = band_pass(turned, mask, fine_px=1.0, coarse_px=6.0)
    F, F2, FM = spectra
    M, M2, MM = (fft.rfft2(x.astype(np.float32), fast) for x in (moving, moving**2, mask))
    cross, energy_f, energy_m, count = (fft.irfft2(p, fast) for p in (F * M, F2 * MM, FM * M2, FM * MM))
    enough = count >= MIN_COMMON * count.max()
    energy = np.sqrt(np.maximum(energy_f, 1e-3) * np.maximum(energy_m, 1e-3))
    score = np.where(enough, cross / energy * np.sqrt(np.maximum(count, 0) / count.max()), -1.0)
    y, x = np.unravel_index(int(np.argmax(score)), score.shape)
    peak = float(score[y, x])
    rest = np.roll(score, (-int(y) + 6, -int(x) + 6), axis=(0, 1))
    rest[:13, :13] = -1.0
    second = max(float(rest.max()), 0.0)
    shift = (int(y) - fast[0] if y >= side else int(y), int(x) - fast[1] if x >= side else int(x))
    return _Trial(degrees=degrees, shift=shift, score=peak, margin=1.0 - second / peak if peak > 0 else 0.0)


def _full_affine(trial: _Trial, b: Level, factor: int) -> Floats:
    """a px -> b px at full resolution: shift into the turned square, then turn back."""
    affine, _ = _turned(b, trial.degrees)
    linear, move = affine[:, :2], affine[:, 2] + affine[:, :2] @ np.array(trial.shift, dtype=np.float64)
    half = np.full(2, (factor - 1) / 2.0)
    return np.concatenate([linear, (factor * move + half - linear @ half)[:, None]], axis=1)
