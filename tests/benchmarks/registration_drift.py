"""How much the tissue of A3 moves by itself: its slices as they were imaged, before the set distorts them.

The truth of A3 takes the raw slices for perfectly aligned. Whatever registers by images follows the tissue,
and is charged for what the tissue does. So the raw slices are registered here, one with the next, by plain
cross-correlation of windows and nothing of Petavoxel; and what a system's neighbour error is beyond that
motion is told beside the error itself. Judges all systems alike.

Numpy and scipy only: it is run, like the judge, by the Python of the peers' environment.
"""

from itertools import pairwise

import numpy as np
from scipy import ndimage

SLICES = ("/fib25/training_sample2_z000-173.npz", slice(60, 84))
"""Where the maker of sets has A3's slices from."""
SCALE = 4
"""Pixels of the set a raw pixel."""
WINDOW, STEP, REACH = 48, 12, 8
"""Raw pixels."""
MIN_CORRELATION = 0.7
"""What a section, mapped back, shares with its raw slice at least, or the slices are not those of the set."""


def raw_slices(sets, truth):
    """The slices (N, Y, X) that the sections of A3 were made from, in raw pixels."""
    file, chosen = SLICES
    raw = np.load(sets.DATA + file)["raw"][chosen].astype(np.float64)
    if raw.shape[1] * SCALE != truth["scene"]:
        raise SystemExit(f"{file}: slices of {raw.shape[1:]} px do not make a scene of {truth['scene']} px")
    return raw[truth["z"]]


def check(sets, truth, raw, section):
    """Stop unless the first section (Y, X) shows its slice where the truth says."""
    points = np.mgrid[40 : truth["canvas"] - 40 : 6, 40 : truth["canvas"] - 40 : 6][::-1].astype(float)
    scene, valid = sets.sec_T(truth, 0, points)
    smooth = ndimage.gaussian_filter(section.astype(float), 2.0)
    here = smooth[points[1].astype(int), points[0].astype(int)][valid]
    there = ndimage.map_coordinates(raw[0], (scene[::-1] - (SCALE - 1) / 2) / SCALE, order=1)[valid]
    share = float(np.corrcoef(here, there)[0, 1])
    if not share >= MIN_CORRELATION:
        raise SystemExit(f"the first section correlates with its raw slice by {share:.2f} only")


def band(image):
    """A slice without shading and the finest noise, of even contrast."""
    flat = ndimage.gaussian_filter(image, 1.0) - ndimage.gaussian_filter(image, 6.0)
    return flat / np.sqrt(ndimage.gaussian_filter(flat**2, 10.0) + 1e-6)


def shifts(a, b):
    """Where windows of slice a lie in slice b: (GY, GX, 2) shifts x, y in px of the set, outliers replaced.

    Only a's window is tapered, and b's is wider by the reach: with both tapered, shifts come out too small.
    """
    taper = np.outer(np.hanning(WINDOW), np.hanning(WINDOW))
    size = (WINDOW + 2 * REACH,) * 2
    wide = np.pad(b, REACH, mode="reflect")
    corners = range(0, a.shape[0] - WINDOW + 1, STEP)
    found = np.zeros((len(corners), len(corners), 2))
    for row, y in enumerate(corners):
        for column, x in enumerate(corners):
            here = np.fft.rfft2(a[y : y + WINDOW, x : x + WINDOW] * taper, size)
            there = np.fft.rfft2(wide[y : y + size[0], x : x + size[1]])
            found[row, column] = peak(
                np.fft.irfft2(here.conj() * there, size)[: 2 * REACH + 1, : 2 * REACH + 1]
            )
    return SCALE * np.stack([ndimage.median_filter(found[..., k], 3) for k in range(2)], axis=-1)


def peak(near):
    """The highest point of a correlation, to a fraction of a pixel by a bell curve on each axis; x, y."""
    y, x = np.unravel_index(near.argmax(), near.shape)
    out = []
    for index, line in ((x, near[y]), (y, near[:, x])):
        part = 0.0
        if 0 < index < len(line) - 1:
            low, top, high = np.log(np.maximum(line[index - 1 : index + 2], 1e-9 * near.max()))
            part = 0.5 * (low - high) / (low - 2.0 * top + high)
        out.append(index - REACH + part)
    return out


def at_points(field, points_xy):
    """A field of shifts (GY, GX, 2) at points (P, 2) of the scene, linear between the windows' middles."""
    first = SCALE * (WINDOW - 1) / 2 + (SCALE - 1) / 2
    where = ((points_xy - first) / (SCALE * STEP)).T[::-1]
    return np.stack(
        [ndimage.map_coordinates(field[..., k], where, order=1, mode="nearest") for k in range(2)], axis=-1
    )


def measure(raw, points_xy):
    """Shifts (N - 1, P, 2) of the tissue from slice to slice at points of the scene; and by how much, by the
    median, two of them in a row differ from the shift that is measured over both slices at once."""
    flat = [band(image) for image in raw]
    steps = np.stack([at_points(shifts(a, b), points_xy) for a, b in pairwise(flat)])
    twice = np.stack([at_points(shifts(a, b), points_xy) for a, b in zip(flat, flat[2:], strict=False)])
    return steps, float(np.median(np.linalg.norm(steps[:-1] + steps[1:] - twice, axis=-1)))


def figures(steps, loop_px):
    """What the raw slices do by themselves."""
    size, total = np.linalg.norm(steps, axis=-1), np.linalg.norm(steps.sum(axis=0), axis=-1)
    return {
        "mean_px": round(float(size.mean()), 3),
        "median_px": round(float(np.median(size)), 3),
        "p95_px": round(float(np.percentile(size, 95)), 3),
        "over_all_px": round(float(total.mean()), 2),
        "common_px": round(float(np.linalg.norm(steps.mean(axis=(0, 1)))), 3),
        "loop_px": round(loop_px, 3),
    }


def beyond(placed, points_xy, steps, kind):
    """Distances between where neighbouring sections put the same *tissue*: the scorer's neighbour error with
    the motion of the raw slices taken off.

    Args:
        placed: where each section puts the points of the scene (N, P, 2), x, y; NaN where it does not say.
        steps: how the tissue moves at these points from each section to the next (N - 1, P, 2).
        kind: what each section shows (N,): 0 nothing, else a fold or crack.
    """
    known = np.isfinite(placed).all(axis=2)
    design = np.concatenate([points_xy, np.ones((len(points_xy), 1))], axis=1)
    rows = np.concatenate([design[k] for k in known])
    linear = np.linalg.lstsq(rows, placed[known], rcond=None)[0][:2]
    off = np.linalg.norm(placed[1:] - placed[:-1] + steps @ linear, axis=2)
    torn = (kind[1:] != 0) | (kind[:-1] != 0)
    return {
        "nbr_mean_beyond_raw_drift": round(float(np.nanmean(off)), 3),
        "nbr_p95_beyond_raw_drift": round(float(np.nanpercentile(off, 95)), 3),
        "nbr_plain_mean_beyond_raw_drift": round(float(np.nanmean(off[~torn])), 3),
        "nbr_artefact_mean_beyond_raw_drift": round(float(np.nanmean(off[torn])), 3),
    }
