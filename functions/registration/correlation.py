"""How far two images are shifted against each other, and how sure that is.

Two tools: the masked normalised cross-correlation of two whole images over all shifts (Padfield, "Masked
object registration in the Fourier domain", IEEE TIP 2012), and many small templates, each in its own search
window. A shift d says that fixed[p] shows what moving[p + d] shows. All positions are y, x in px.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import next_fast_len
from torch import Tensor
from torch.nn.functional import pad

from functions.registration.filters import CPU, box_sums, strips

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

SECOND_PEAK_PX = 5
CPU_BATCH_PX = 1 << 19
"""Pixels of search windows in work at once: as many as a CPU's caches hold; four times more
or eight times fewer take half as long again, or longer."""
DEVICE_BATCH_PX = 1 << 24
MIN_BAND_PX = 256
"""Rows of a strip whose templates are found together: windows hang over its rim by a third of that."""
ROUNDING = 1e-5
"""A variance below this share of the mean square is rounding: the place is flat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shift:
    """The best shift, its correlation `peak` (-1..1), the best correlation elsewhere, and the common
    pixels."""

    shift_yx_px: tuple[float, float]
    peak: float
    second: float
    pixels: int

    @property
    def margin(self) -> float:
        """How far the peak stands out: 0 for a tie, up to 1."""
        return 0.0 if self.peak <= 0 else max(0.0, 1.0 - max(self.second, 0.0) / self.peak)


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchShifts:
    """Shifts (N, 2), correlation and second peak (N,) of N templates; `valid` is False where nothing
    was found."""

    shift_yx_px: Floats
    peak: Floats
    second: Floats
    valid: Mask


def masked_correlation(
    fixed: Image,
    fixed_mask: Mask,
    moving: Image,
    moving_mask: Mask,
    *,
    lags_yx: tuple[tuple[int, int], tuple[int, int]] | None = None,
    device: torch.device = CPU,
) -> tuple[Floats, Floats]:
    """Normalised correlation and number of common pixels for every shift from the first to the last lag of
    each axis.

    Without `lags_yx` these are all, -(H - 1) ... Hm - 1 for images of H and Hm rows, so that shift 0 is at
    index (H - 1, W - 1). Fewer lags need shorter transforms: as long as keeps what wraps round out of them.
    Variances are small differences of large sums, hence float64. Without gaps, one transform each is enough.
    """
    shapes = list(zip(fixed.shape, moving.shape, strict=True))
    lags = lags_yx or tuple((1 - h, m - 1) for h, m in shapes)
    least = [max(h, m, m - a, b + h) for (h, m), (a, b) in zip(shapes, lags, strict=True)]
    size = [next_fast_len(n, real=True) for n in least]
    f, fm = _centred(fixed, fixed_mask, device)
    m, mm = _centred(moving, moving_mask, device)
    wanted = [torch.arange(a, b + 1, device=device) for a, b in lags]
    at = [w % n for w, n in zip(wanted, size, strict=True)]
    if fixed_mask.all() and moving_mask.all():
        spectrum = torch.fft.rfft2(f, size).conj() * torch.fft.rfft2(m, size)
        cross = torch.fft.irfft2(spectrum, size)[at[0]][:, at[1]]
        sum_f, square_f, count = _common_sums(f, wanted, moving.shape)
        sum_m, square_m, _ = _common_sums(m, [-w for w in wanted], fixed.shape)
    else:
        F, F2, FM = torch.fft.rfft2(torch.stack([f, f * f, fm]), size).conj()
        M, M2, MM = torch.fft.rfft2(torch.stack([m, m * m, mm]), size)
        products = torch.stack([F * M, FM * MM, F * MM, FM * M, F2 * MM, FM * M2])
        sums = torch.fft.irfft2(products, size)[:, at[0]][:, :, at[1]]
        cross, count, sum_f, sum_m, square_f, square_m = sums
    count = count.round().clamp(min=0.0)
    n = count.clamp(min=1.0)
    var_f, var_m = (square_f - sum_f**2 / n).clamp(min=0.0), (square_m - sum_m**2 / n).clamp(min=0.0)
    energy = torch.sqrt(var_f * var_m)
    floor = 1e-6 * energy.max() + 1e-12
    ncc = torch.where(energy > floor, (cross - sum_f * sum_m / n) / energy.clamp(min=floor), 0.0)
    return ncc.clamp(-1.0, 1.0).cpu().numpy(), count.cpu().numpy()


def _common_sums(
    image: Tensor, lags_yx: Sequence[Tensor], other_yx: tuple[int, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Of an image and its square: sums over what a full image of another shape covers when it is moved by
    minus each lag; and how many pixels that are. By running sums (Lewis, 1995), which need float64."""
    first = [(-d).clamp(0, n) for d, n in zip(lags_yx, image.shape, strict=True)]
    last = [
        torch.maximum(a, (m - d).clamp(0, n))
        for a, d, n, m in zip(first, lags_yx, image.shape, other_yx, strict=True)
    ]
    sums = []
    for values in (image, image * image):
        total = pad(values.cumsum(0).cumsum(1), (1, 0, 1, 0))
        rows = total[last[0]] - total[first[0]]
        sums.append(rows[:, last[1]] - rows[:, first[1]])
    count = (last[0] - first[0])[:, None] * (last[1] - first[1])
    return sums[0], sums[1], count.to(image.dtype)


def _centred(image: Image, mask: Mask, device: torch.device) -> tuple[Tensor, Tensor]:
    """Minus its mean, 0 where masked, and the mask. A constant image becomes exactly 0, so that rounding
    shows no pattern."""
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float64)).to(device)
    usable = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    mean = float(values[usable].mean()) if mask.any() else 0.0
    out = (values - mean) * usable
    return torch.where(out.abs() > 1e-9 * abs(mean), out, 0.0), usable.to(torch.float64)


def find_shift(
    fixed: Image,
    fixed_mask: Mask,
    moving: Image,
    moving_mask: Mask,
    *,
    expected_yx_px: tuple[float, float],
    reach_yx_px: tuple[float, float],
    min_common: float = 0.25,
    device: torch.device = CPU,
) -> Shift | None:
    """The shift of highest significance within `reach_yx_px` of the expected one; None if nothing overlaps.

    Significance is correlation times the root of the common area, so that a corner of a few pixels that
    happens to agree does not win. Shifts with less than `min_common` of the largest common area in reach
    are not considered.
    """
    lags = []
    for e, r, h, m in zip(expected_yx_px, reach_yx_px, fixed.shape, moving.shape, strict=True):
        low, high = max(1 - h, int(np.floor(e - r))), min(m - 1, int(np.ceil(e + r)))
        if low > high:
            return None
        lags.append((low, high))
    score, common = masked_correlation(
        fixed, fixed_mask, moving, moving_mask, lags_yx=(lags[0], lags[1]), device=device
    )
    if common.max() < 64:
        return None
    score = np.where(common >= min_common * common.max(), score * np.sqrt(common / common.max()), -1.0)
    y, x = np.unravel_index(int(np.argmax(score)), score.shape)
    if score[y, x] <= 0:
        return None
    peak = float(score[y, x])
    far = np.maximum(
        np.abs(np.arange(score.shape[0]) - y)[:, None], np.abs(np.arange(score.shape[1]) - x)[None, :]
    )
    second = float(score[far > SECOND_PEAK_PX].max(initial=0.0))
    dy, dx = _subpixel(score, int(y), int(x))
    shift = (float(y + dy + lags[0][0]), float(x + dx + lags[1][0]))
    return Shift(shift_yx_px=shift, peak=peak, second=second, pixels=int(common[y, x]))


def _subpixel(score: Floats, y: int, x: int) -> tuple[float, float]:
    """Vertex of the parabola through a peak and its neighbours on each axis; 0 at a border."""
    out = []
    for line, i in ((score[:, x], y), (score[y, :], x)):
        if 0 < i < len(line) - 1:
            a, b, c = float(line[i - 1]), float(line[i]), float(line[i + 1])
            curve = a - 2 * b + c
            out.append(float(np.clip((a - c) / (2 * curve), -0.5, 0.5)) if curve < 0 else 0.0)
        else:
            out.append(0.0)
    return out[0], out[1]


def match_patches(
    fixed: Image,
    fixed_mask: Mask,
    moving: Image,
    moving_mask: Mask,
    *,
    fixed_corner_yx: NDArray[np.int64],
    moving_corner_yx: NDArray[np.int64],
    patch_yx_px: tuple[int, int],
    reach_px: int,
    min_cover: float = 0.7,
    apart_px: int = SECOND_PEAK_PX,
    device: torch.device = CPU,
) -> PatchShifts:
    """Find N templates of `fixed` in `moving`, each within `reach_px` of where it is expected.

    Args:
        fixed_corner_yx: upper left corners (N, 2) of the templates, inside `fixed`.
        moving_corner_yx: where each template's corner is expected in `moving`; windows may leave the image.
        min_cover: usable share that a template, and its place in `moving`, must have.
        apart_px: a second peak counts from this distance on (on either axis).

    Returns:
        Shifts relative to the expected place, sub-pixel by parabola. Images should be band-passed.
    """
    here, there = np.asarray(fixed_corner_yx), np.asarray(moving_corner_yx)
    shift, peak, second = np.zeros((len(here), 2)), np.zeros(len(here)), np.zeros(len(here))
    valid = np.zeros(len(here), dtype=np.bool_)
    for rows in _bands(there, moving.shape, device):
        y0, y1 = int(here[rows, 0].min()), int(here[rows, 0].max()) + patch_yx_px[0]
        v0, v1 = there[rows, 0].min() - reach_px, there[rows, 0].max() + reach_px + patch_yx_px[0]
        v0 = int(np.clip(v0, 0, moving.shape[0] - 1))
        v1 = int(np.clip(v1, v0 + 1, moving.shape[0]))
        part = _match_band(
            _planes(fixed[y0:y1], fixed_mask[y0:y1], device),
            _planes(moving[v0:v1], moving_mask[v0:v1], device),
            here[rows] - (y0, 0),
            there[rows] - (v0 + reach_px, reach_px),
            patch_yx_px,
            reach_px,
            min_cover,
            apart_px,
        )
        for whole, found in zip((shift, peak, second, valid), part, strict=True):
            whole[rows] = found.cpu().numpy()
    return PatchShifts(shift_yx_px=shift, peak=peak, second=second, valid=valid)


def _bands(
    corner_yx: NDArray[np.int64], shape_yx: tuple[int, ...], device: torch.device
) -> list[NDArray[np.int64]]:
    """Indices of the corners (N, 2) in each strip of an image: what is held at once does not grow with its
    height."""
    starts = [rows.start for rows, _ in strips(shape_yx, MIN_BAND_PX // 2, device)]
    band = np.searchsorted(starts, corner_yx[:, 0], side="right")
    return [np.flatnonzero(band == k) for k in np.unique(band)]


def _match_band(
    fixed: tuple[Tensor, Tensor],
    moving: tuple[Tensor, Tensor],
    corner: NDArray[np.int64],
    window_corner: NDArray[np.int64],
    patch_yx: tuple[int, int],
    reach_px: int,
    min_cover: float,
    apart_px: int,
) -> tuple[Tensor, ...]:
    """`_batch_peaks` of templates at `corner` (N, 2) of `fixed`, in windows at `window_corner` of `moving`.

    Images come with their masks. Sums over the places of templates are made once, for all windows.
    """
    window_yx, side = (patch_yx[0] + 2 * reach_px, patch_yx[1] + 2 * reach_px), 2 * reach_px + 1
    window_corner, room = _within_reach(window_corner, window_yx, moving[0].shape)
    m, mm = (pad(plane, room) for plane in moving)
    boxes = torch.stack([box_sums(box_sums(p, patch_yx[0], -2), patch_yx[1], -1) for p in (mm, m, m * m)])
    starts = [torch.from_numpy(c).to(m.device) for c in (corner, window_corner)]
    batch_px = CPU_BATCH_PX if m.device.type == "cpu" else DEVICE_BATCH_PX
    step = max(1, batch_px // (window_yx[0] * window_yx[1]))
    found = []
    for first in range(0, len(corner), step):
        here, there = (s[first : first + step] for s in starts)
        templates, masks = (_cut(plane, here, patch_yx) for plane in fixed)
        windows, sums = _cut(m, there, window_yx), _cut(boxes, there, (side, side))
        found.append(_batch_peaks(_batch_ncc(templates, masks, windows, sums, min_cover), reach_px, apart_px))
    return tuple(torch.cat(column) for column in zip(*found, strict=True))


def _within_reach(
    corner: NDArray[np.int64], window_yx: tuple[int, int], shape_yx: tuple[int, ...]
) -> tuple[NDArray[np.int64], tuple[int, int, int, int]]:
    """Corners (N, 2) of windows in an image that is widened by (left, right, top, bottom), and these.

    No more than a window's width is added: one that lies further out is moved to where it still sees nothing.
    """
    out, room = np.empty_like(corner), []
    for axis, (size, length) in enumerate(zip(window_yx, shape_yx, strict=True)):
        kept = np.clip(corner[:, axis], -size, length)
        before = max(0, -int(kept.min(initial=0)))
        room.append((before, max(0, int(kept.max(initial=0)) + size - length)))
        out[:, axis] = kept + before
    return out, (*room[1], *room[0])


def _planes(image: Image, mask: Mask, device: torch.device) -> tuple[Tensor, Tensor]:
    """Image, 0 where masked, and mask as float32."""
    values = torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)).to(device)
    usable = torch.from_numpy(np.ascontiguousarray(mask)).to(device)
    return torch.where(usable, values, 0.0), usable.to(torch.float32)


def _cut(planes: Tensor, corner: Tensor, shape: tuple[int, int]) -> Tensor:
    """Boxes (..., B, h, w) of planes (..., Y, X) at corners (B, 2)."""
    return planes.unfold(-2, shape[0], 1).unfold(-2, shape[1], 1)[..., corner[:, 0], corner[:, 1], :, :]


def _batch_ncc(
    templates: Tensor, template_masks: Tensor, windows: Tensor, boxes: Tensor, min_cover: float
) -> Tensor:
    """Zero-mean normalised correlation (B, 2r + 1, 2r + 1) of templates (B, h, w) in windows; -1 if not
    usable.

    `boxes` (3, B, 2r + 1, 2r + 1): usable pixels, sum and sum of squares at each place of a template.
    """
    area = float(templates.shape[1] * templates.shape[2])
    cover = template_masks.mean(dim=(1, 2), keepdim=True)
    mean = templates.mean(dim=(1, 2), keepdim=True) / cover.clamp(min=1e-6)
    template = templates - mean * template_masks
    size = [next_fast_len(n, real=True) for n in windows.shape[1:]]
    spectrum = torch.fft.rfft2(windows, size) * torch.fft.rfft2(template, size).conj()
    used, total, square = boxes
    cross = torch.fft.irfft2(spectrum, size)[:, : used.shape[1], : used.shape[2]]
    energy_w = square - total**2 / used.clamp(min=1.0)
    energy_w = torch.where(energy_w > ROUNDING * square, energy_w, 0.0)
    energy = torch.sqrt(energy_w * (template**2).sum(dim=(1, 2), keepdim=True))
    usable = (used >= min_cover * area) & (cover >= min_cover) & (energy > 1e-6 * area)
    return torch.where(usable, cross / energy.clamp(min=1e-9), -1.0)


def _batch_peaks(ncc: Tensor, reach_px: int, apart_px: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sub-pixel peak, its height, the second peak and whether the peak is inside, for each (2r + 1)² map."""
    size = 2 * reach_px + 1
    peak, best = ncc.flatten(1).max(dim=1)
    y, x = best // size, best % size
    rows, axis = torch.arange(len(ncc), device=ncc.device), torch.arange(size, device=ncc.device)
    near_y, near_x = ((axis - p[:, None]).abs() <= apart_px for p in (y, x))
    second = torch.where(near_y[:, :, None] & near_x[:, None, :], -1.0, ncc).amax(dim=(1, 2))
    inside = (y > 0) & (y < size - 1) & (x > 0) & (x < size - 1) & (peak > 0)
    yc, xc = y.clamp(1, size - 2), x.clamp(1, size - 2)
    middle = ncc[rows, yc, xc]
    shift = torch.stack([y, x], dim=1).to(ncc.dtype) - reach_px
    for k, (dy, dx) in enumerate(((1, 0), (0, 1))):
        low, high = ncc[rows, yc - dy, xc - dx], ncc[rows, yc + dy, xc + dx]
        curve = low - 2 * middle + high
        good = inside & (curve < 0) & (low > -1) & (high > -1)
        step = ((low - high) / torch.where(good, 2 * curve, 1.0)).clamp(-0.5, 0.5)
        shift[:, k] += torch.where(good, step, 0.0)
    return shift, peak, second, inside
