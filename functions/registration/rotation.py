"""How two sections are turned against each other: a scan of rotations on thumbnails, with all translations.

    turned thumbnail of b                 t[p + shift] shows what a[p] shows
┌───────────────┐  a square that
│     ╱╲        │  holds it at         correlation = sum a t / root(sum a² sum t²), sums over common pixels
│   ╱    ╲      │  any angle           score = correlation times the root of the common share
│   ╲    ╱      │
│     ╲╱        │
└───────────────┘
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import grid_sample

from functions.registration.filters import CPU, band
from functions.registration.planes import Plane

Floats = NDArray[np.float64]
SCAN_STEP_DEG = 1.5
MIN_COMMON = 0.4
MIN_SCORE = 0.2
MIN_MARGIN = 0.12
FAR_FACTOR = 1.5
"""A rotation outside the expected range has to score so much better: by chance, sections reach 0.18."""
NEAR_PX = 6
"""A second peak counts from further off, on either axis."""
FINE_PX = 1.0
COARSE_PX = 6.0
CPU_BATCH_PX = 1 << 16
"""Pixels of transforms in work at once: one rotation fits the caches, eight are half as slow again."""
DEVICE_BATCH_PX = 1 << 23


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """One section, reduced: grey values and mask; and where it is compared.

    Pixel r of a level of factor f is the mean of f x f pixels and has its centre at r * f + (f - 1) / 2.
    """

    image: Plane
    mask: Plane
    factor: int
    device: torch.device = CPU
    contrast: float | None = None
    """Typical local variance, as of `filters.band`."""

    @property
    def shape_yx(self) -> tuple[int, int]:
        """Of the level."""
        return self.image.shape[0], self.image.shape[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """A rigid map a -> b (2, 3) from thumbnails, its correlation, and how far that stands out (0..1)."""

    affine: Floats
    score: float
    margin: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Trial:
    """The best translation at one rotation."""

    degrees: float
    shift_yx: tuple[int, int]
    score: float
    margin: float


def scan_rotations(a: Level, b: Level, *, max_rotation_deg: float, all_round: bool = True) -> Guess | None:
    """Try rotations up to `max_rotation_deg`; `all_round`, all others too if none of these stands out."""
    scan = _Scan(a, b)
    near = np.arange(-max_rotation_deg, max_rotation_deg + 0.5 * SCAN_STEP_DEG, SCAN_STEP_DEG)
    best = max(scan.trials(near), key=lambda trial: trial.score)
    steps = [SCAN_STEP_DEG / 2, SCAN_STEP_DEG / 4]
    if all_round and (best.score < MIN_SCORE or best.margin < MIN_MARGIN):
        far = scan.trials(np.arange(-180.0, 180.0, 2 * SCAN_STEP_DEG))
        other = max(far, key=lambda trial: trial.score)
        best = other if other.score > FAR_FACTOR * best.score else best
        steps = [SCAN_STEP_DEG, *steps]
    for step in steps:
        both = scan.trials((best.degrees - step, best.degrees + step))
        best = max([best, *both], key=lambda trial: trial.score)
    if best.score <= 0:
        return None
    affine = _full_affine(scan.turn(best.degrees), best.shift_yx, a.factor)
    return Guess(affine=affine, score=round(best.score, 4), margin=round(best.margin, 4))


class _Scan:
    """What all rotations share: spectra of a, the band-passed b, and the size of the transforms."""

    def __init__(self, a: Level, b: Level) -> None:
        self._centre = (np.array(b.image.shape) - 1) / 2.0
        self._side = int(np.ceil(np.hypot(*b.shape_yx))) + 2
        self._size = [next_fast_len(n + self._side - 1, real=True) for n in a.image.shape]
        fixed, mask = _pattern(a)
        self._spectra = torch.fft.rfft2(torch.stack([fixed, fixed**2, mask]), self._size).conj()
        self._moving = torch.stack(_pattern(b))

    def turn(self, degrees: float) -> Floats:
        """Map (2, 3) from the pixels of the square that holds the turned thumbnail to the thumbnail."""
        t = np.deg2rad(degrees)
        linear = np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])
        move = self._centre - linear @ np.full(2, (self._side - 1) / 2.0)
        return np.concatenate([linear, move[:, None]], axis=1)

    def trials(self, degrees: Iterable[float]) -> list[_Trial]:
        """The best translation for each rotation, so many at once as fit."""
        wanted = [float(d) for d in degrees]
        batch_px = CPU_BATCH_PX if self._moving.device.type == "cpu" else DEVICE_BATCH_PX
        step = max(1, batch_px // (self._size[0] * self._size[1]))
        return [t for k in range(0, len(wanted), step) for t in self._batch(wanted[k : k + step])]

    def _batch(self, degrees: list[float]) -> list[_Trial]:
        moving, mask = self._turned(degrees)
        M, M2, MM = torch.fft.rfft2(torch.stack([moving, moving**2, mask]), self._size)
        F, F2, FM = self._spectra
        cross, energy_f, energy_m, count = torch.fft.irfft2(
            torch.stack([F * M, F2 * MM, FM * M2, FM * MM]), self._size
        )
        share = count.clamp(min=0.0) / count.amax(dim=(1, 2), keepdim=True).clamp(min=1.0)
        energy = torch.sqrt(energy_f.clamp(min=1e-3) * energy_m.clamp(min=1e-3))
        score = torch.where(share >= MIN_COMMON, cross / energy * share.sqrt(), -1.0)
        return self._peaks(degrees, score)

    def _turned(self, degrees: list[float]) -> tuple[Tensor, Tensor]:
        """Pattern and mask (B, S, S) of b at several rotations, 0 where not usable."""
        device, (h, w) = self._moving.device, self._moving.shape[1:]
        affine = torch.from_numpy(np.stack([self.turn(d) for d in degrees])).to(device, torch.float32)
        line = torch.arange(self._side, dtype=torch.float32, device=device)
        y, x = (
            affine[:, k, 0, None, None] * line[:, None] + affine[:, k, 1, None, None] * line
            + affine[:, k, 2, None, None]
            for k in range(2)
        )  # fmt: skip
        grid = torch.stack([x * (2.0 / (w - 1)) - 1.0, y * (2.0 / (h - 1)) - 1.0], dim=-1)
        planes = self._moving.expand(len(degrees), -1, -1, -1)
        # beyond the border zeros, so that half a pixel of rim is lost rather than made up
        moving, mask = grid_sample(planes, grid, mode="bilinear", align_corners=True).unbind(1)
        usable = (mask > 0.99).to(torch.float32)
        return moving * usable, usable

    def _peaks(self, degrees: list[float], score: Tensor) -> list[_Trial]:
        peak, best = score.flatten(1).max(dim=1)
        at = torch.stack([best // self._size[1], best % self._size[1]], dim=1)
        near = []
        for axis, n in enumerate(self._size):
            off = (torch.arange(n, device=score.device) - at[:, axis, None]).abs()
            near.append(torch.minimum(off, n - off) <= NEAR_PX)
        rest = torch.where(near[0][:, :, None] & near[1][:, None, :], -1.0, score)
        second = rest.amax(dim=(1, 2)).clamp(min=0.0)
        out = []
        for d, p, s, (y, x) in zip(degrees, peak.tolist(), second.tolist(), at.tolist(), strict=True):
            shift = (self._unwrapped(y, 0), self._unwrapped(x, 1))
            out.append(_Trial(degrees=d, shift_yx=shift, score=p, margin=1.0 - s / p if p > 0 else 0.0))
        return out

    def _unwrapped(self, index: int, axis: int) -> int:
        """Negative shifts are at the end."""
        return index - self._size[axis] if index >= self._side else index


def _pattern(level: Level) -> tuple[Tensor, Tensor]:
    """Band-passed thumbnail and its mask."""
    mask = torch.from_numpy(level.mask[:, :]).to(level.device)
    image = torch.from_numpy(level.image[:, :]).to(level.device)
    return band(image, mask, fine_px=FINE_PX, coarse_px=COARSE_PX), mask.to(torch.float32)


def _full_affine(turn: Floats, shift_yx: tuple[int, int], factor: int) -> Floats:
    """a px -> b px at full resolution: shift into the turned square, then turn back."""
    linear, move = turn[:, :2], turn[:, 2] + turn[:, :2] @ np.array(shift_yx, dtype=np.float64)
    half = np.full(2, (factor - 1) / 2.0)
    return np.concatenate([linear, (factor * move + half - linear @ half)[:, None]], axis=1)
