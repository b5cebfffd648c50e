"""Correlations and band-pass of the registration in plain numpy and scipy: what the tensors must come to."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from functions.registration.correlation import PatchShifts, Shift

Image = NDArray[np.float32]
Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

SECOND_PEAK_PX = 5
BATCH_PIXELS = 1 << 21
BLOCK_PX = 4


def masked_correlation(
    fixed: Image, fixed_mask: Mask, moving: Image, moving_mask: Mask
) -> tuple[Floats, Floats]:
    """Normalised correlation and number of common pixels for every shift; shift 0 is at index (H - 1, W - 1).

    Arrays are (Hf + Hm - 1, Wf + Wm - 1), where (H, W) is the shape of `fixed`.
    """
    shape = tuple(a + b - 1 for a, b in zip(fixed.shape, moving.shape, strict=True))
    fast = [fft.next_fast_len(n, real=True) for n in shape]
    f = _centred(fixed, fixed_mask)[::-1, ::-1]
    m = _centred(moving, moving_mask)
    spectra = [fft.rfft2(a, fast) for a in (f, f * f, fixed_mask[::-1, ::-1].astype(np.float64))]
    F, F2, FM = spectra
    M, M2, MM = (fft.rfft2(a, fast) for a in (m, m * m, moving_mask.astype(np.float64)))

    def back(product: NDArray[np.complex128]) -> Floats:
        out: Floats = fft.irfft2(product, fast)[: shape[0], : shape[1]]
        return out

    count = np.maximum(np.round(back(FM * MM)), 0.0)
    n = np.maximum(count, 1.0)
    sum_f, sum_m = back(F * MM), back(FM * M)
    cross = back(F * M) - sum_f * sum_m / n
    var_f = back(F2 * MM) - sum_f**2 / n
    var_m = back(FM * M2) - sum_m**2 / n
    energy = np.sqrt(np.maximum(var_f, 0.0) * np.maximum(var_m, 0.0))
    floor = 1e-6 * float(energy.max(initial=0.0)) + 1e-12
    return np.where(energy > floor, cross / np.maximum(energy, floor), 0.0).clip(-1.0, 1.0), count


def _centred(image: Image, mask: Mask) -> Floats:
    """Minus its mean, 0 where masked. A constant image becomes exactly 0, so that rounding shows no
    pattern."""
    values = image.astype(np.float64)
    mean = float(values[mask].mean()) if mask.any() else 0.0
    out = np.where(mask, values - mean, 0.0)
    return np.where(np.abs(out) > 1e-9 * abs(mean), out, 0.0)


def find_shift(
    fixed: Image,
    fixed_mask: Mask,
    moving: Image,
    moving_mask: Mask,
    *,
    expected_yx_px: tuple[float, float],
    reach_yx_px: tuple[float, float],
    min_common: float = 0.25,
) -> Shift | None:
    """The shift of highest significance within `reach_yx_px` of the expected one; None if nothing overlaps.

    Significance is correlation times the root of the common area, so that a corner of a few pixels that
    happens to agree does not win. Shifts with less than `min_common` of the largest common area in reach
    are not considered.
    """
    ncc, count = masked_correlation(fixed, fixed_mask, moving, moving_mask)
    zero = (fixed.shape[0] - 1, fixed.shape[1] - 1)
    low = [int(np.floor(z + e - r)) for z, e, r in zip(zero, expected_yx_px, reach_yx_px, strict=True)]
    high = [int(np.ceil(z + e + r)) + 1 for z, e, r in zip(zero, expected_yx_px, reach_yx_px, strict=True)]
    window = tuple(slice(max(0, a), max(0, min(b, n))) for a, b, n in zip(low, high, ncc.shape, strict=True))
    score, common = ncc[window], count[window]
    if score.size == 0 or common.max() < 64:
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
    shift = (y + dy + window[0].start - zero[0], x + dx + window[1].start - zero[1])
    return Shift(
        shift_yx_px=(float(shift[0]), float(shift[1])), peak=peak, second=second, pixels=int(common[y, x])
    )


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
    count = len(fixed_corner_yx)
    window_yx = (patch_yx_px[0] + 2 * reach_px, patch_yx_px[1] + 2 * reach_px)
    margin = window_yx[0] + window_yx[1]
    padded = np.pad(np.where(moving_mask, moving, 0).astype(np.float32), margin)
    padded_mask = np.pad(moving_mask, margin)
    f = np.where(fixed_mask, fixed, 0).astype(np.float32)
    limit = np.array(padded.shape) - np.array(window_yx)
    corner = np.clip(np.asarray(moving_corner_yx) - reach_px + margin, 0, limit)
    shifts, peak, second = np.zeros((count, 2)), np.zeros(count), np.zeros(count)
    valid = np.zeros(count, dtype=bool)
    step = max(1, BATCH_PIXELS // (window_yx[0] * window_yx[1]))
    for start in range(0, count, step):
        rows = range(start, min(count, start + step))
        t = np.stack([_cut(f, fixed_corner_yx[i], patch_yx_px) for i in rows])
        tm = np.stack([_cut(fixed_mask, fixed_corner_yx[i], patch_yx_px) for i in rows])
        w = np.stack([_cut(padded, corner[i], window_yx) for i in rows])
        wm = np.stack([_cut(padded_mask, corner[i], window_yx) for i in rows])
        ncc = _batch_ncc(t, tm, w, wm, min_cover)
        part = slice(start, start + len(rows))
        shifts[part], peak[part], second[part], valid[part] = _batch_peaks(ncc, reach_px, apart_px)
    return PatchShifts(shift_yx_px=shifts, peak=peak, second=second, valid=valid)


def _cut(
    array: NDArray[np.generic], corner: NDArray[np.int64], shape: tuple[int, int]
) -> NDArray[np.generic]:
    y, x = int(corner[0]), int(corner[1])
    return array[y : y + shape[0], x : x + shape[1]]


def _box_sums(a: Floats, shape: tuple[int, int]) -> Floats:
    """Sums over all boxes of `shape` (B, H - h + 1, W - w + 1), by an integral image."""
    s = np.pad(a, ((0, 0), (1, 0), (1, 0))).cumsum(1).cumsum(2)
    h, w = shape
    out: Floats = s[:, h:, w:] - s[:, :-h, w:] - s[:, h:, :-w] + s[:, :-h, :-w]
    return out


def _batch_ncc(
    t: NDArray[np.generic],
    tm: NDArray[np.generic],
    w: NDArray[np.generic],
    wm: NDArray[np.generic],
    min_cover: float,
) -> Floats:
    """Zero-mean normalised correlation (B, 2r + 1, 2r + 1) of templates (B, h, w) in windows; -1 if not
    usable."""
    shape = (t.shape[1], t.shape[2])
    area = float(shape[0] * shape[1])
    template = t.astype(np.float64)
    cover = tm.reshape(len(tm), -1).mean(axis=1)
    share = np.maximum(cover, 1e-6)[:, None, None]
    template = np.where(tm, template - template.mean(axis=(1, 2), keepdims=True) / share, 0.0)
    fast = [fft.next_fast_len(n, real=True) for n in w.shape[1:]]
    window = w.astype(np.float64)
    spectrum = fft.rfft2(window, fast) * np.conj(fft.rfft2(template, fast))
    n = (w.shape[1] - shape[0] + 1, w.shape[2] - shape[1] + 1)
    cross = fft.irfft2(spectrum, fast)[:, : n[0], : n[1]]
    used = _box_sums(wm.astype(np.float64), shape)
    total = _box_sums(window, shape)
    energy_w = _box_sums(window**2, shape) - total**2 / np.maximum(used, 1.0)
    energy_t = (template**2).sum(axis=(1, 2))[:, None, None]
    energy = np.sqrt(np.maximum(energy_w, 0.0) * energy_t)
    usable = (used >= min_cover * area) & (cover >= min_cover)[:, None, None] & (energy > 1e-6 * area)
    out: Floats = np.where(usable, cross / np.maximum(energy, 1e-9), -1.0)
    return out


def _batch_peaks(ncc: Floats, reach_px: int, apart_px: int) -> tuple[Floats, Floats, Floats, Mask]:
    """Sub-pixel peak, its height, the second peak and whether the peak is inside, for each (2r + 1)² map."""
    size = 2 * reach_px + 1
    flat = ncc.reshape(len(ncc), -1)
    best = flat.argmax(axis=1)
    y, x = best // size, best % size
    rows = np.arange(len(ncc))
    peak = flat[rows, best]
    axis = np.arange(size)
    near = (np.abs(axis[None, :, None] - y[:, None, None]) <= apart_px) & (
        np.abs(axis[None, None, :] - x[:, None, None]) <= apart_px
    )
    second = np.where(near, -1.0, ncc).max(axis=(1, 2))
    inside = (y > 0) & (y < size - 1) & (x > 0) & (x < size - 1) & (peak > 0)
    yc, xc = np.clip(y, 1, size - 2), np.clip(x, 1, size - 2)
    shift = np.stack([y, x], axis=1).astype(np.float64) - reach_px
    for k, (dy, dx) in enumerate(((1, 0), (0, 1))):
        low, high = ncc[rows, yc - dy, xc - dx], ncc[rows, yc + dy, xc + dx]
        curve = low - 2 * ncc[rows, yc, xc] + high
        good = inside & (curve < 0) & (low > -1) & (high > -1)
        shift[:, k] += np.where(good, np.clip((low - high) / np.where(good, 2 * curve, 1.0), -0.5, 0.5), 0.0)
    return shift, peak, second, inside


def _box_blur(image: Image, size: int) -> Image:
    """Three box filters: close to a Gaussian, at a cost that does not grow with its width."""
    for _ in range(2):
        image = ndimage.uniform_filter(image, size, mode="constant")
    return image


def _block_means(values: Image) -> Image:
    """Means of blocks; zeros beyond the border."""
    full = np.pad(values, [(0, -n % BLOCK_PX) for n in values.shape])
    return full.reshape(full.shape[0] // BLOCK_PX, BLOCK_PX, -1, BLOCK_PX).mean(axis=(1, 3))


def _pixels(blocks: Image, shape: tuple[int, ...]) -> Image:
    """Linear between the middles of blocks."""
    for axis, length in enumerate(shape):
        middles = BLOCK_PX * np.arange(blocks.shape[axis]) + (BLOCK_PX - 1) / 2
        lines = [np.interp(np.arange(length), middles, line) for line in np.moveaxis(blocks, axis, -1)]
        blocks = np.moveaxis(np.array(lines), -1, axis)
    return blocks


def band_pass(image: NDArray[np.generic], mask: Mask, *, fine_px: float, coarse_px: float) -> Image:
    """Take away noise below `fine_px` and shading above `coarse_px`, and even out local contrast.

    Masked pixels do not leak into their neighbours and are 0 in the result.
    """
    weight = mask.astype(np.float32)
    size = max(3, 2 * round(coarse_px) + 1)
    share = np.maximum(_box_blur(weight, size), 1e-3)
    gray = image.astype(np.float32)
    flat = np.where(mask, gray - _box_blur(gray * weight, size) / share, 0.0).astype(np.float32)
    if fine_px > 0:
        soft = ndimage.gaussian_filter(flat, fine_px, truncate=3.0, mode="constant")
        flat = np.where(mask, soft, 0.0).astype(np.float32)
    wide = 2 * round(size / BLOCK_PX) + 1
    local, there = (_pixels(_box_blur(_block_means(v), wide), v.shape) for v in (flat**2, weight))
    local = local / np.maximum(there, 1e-3)
    level = float(np.median(local[mask])) if mask.any() else 0.0
    out: Image = np.where(mask, flat / np.sqrt(local + 0.25 * level + 1e-3), 0.0).astype(np.float32)
    return out
