"""Do two placed images agree? Asked of their pixels, not of the matches that placed them.

A wrong match that survived has pulled its tile or section along, so residuals of matches cannot show it. Here
windows of one image are compared with the other where they lie (`ncc`), and looked for around it: a better
place elsewhere is an error of the placement, in px.

    a  ┌────┐           ncc    correlation of the window with b where it lies
       │ ▒▒ │           peak   best correlation within reach, found `shift` away
    b  └────┘─► shift   sure   that place stands out: the shift is a measurement
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from functions.model.transform import Warp
from functions.registration.correlation import match_patches
from functions.registration.masks import Image, Mask, band_pass
from functions.registration.warp import dense_coordinates, pull, source_box

Floats = NDArray[np.float64]

GRID = 16
"""At most so many windows on each axis."""
LONGEST_PX, SHORTEST_PX, PIXEL_NM = 1536, 192, 12.0
"""Following sections are compared at about 12 nm, where membranes of 45 nm sections correlate (0.46; 0.15 at
4.6 nm), unless their longer side then has too many or too few pixels."""
LARGE_TILE_PX = 1024
REACH_PX = 32
"""How far windows are looked for, in full pixels: a tile or section that is off by more is merely unlike."""
WINDOW_PX, LEAST_WINDOW_PX = 48, 12
SPACING_PX = 32
SECTION_BAND_PX = (1.0, 8.0)
"""Finest and coarsest structures that count, px at the resolution of the comparison."""
SEAM_BAND_PX = (1.0, 8.0)
"""The same for tiles, in full px: with coarser ones the tiles' shading moved a shift by 0.4 px."""
MIN_COVER = 0.6
MIN_TEXTURE = 0.5
"""RMS of a band-passed window, where 1 is usual: empty resin, whose noise is unlike, is not compared."""
SURE_PEAK, SURE_RATIO = 0.3, 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A band-passed image at reduced resolution (pixel r is the mean of factor x factor px) and its mask."""

    image: Image
    mask: Mask
    factor: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Windows:
    """N measured windows: centre (N, 2) and shift (N, 2) in px of the common frame; the rest (N,)."""

    centre_yx: Floats
    ncc: Floats
    peak: Floats
    shift_yx_px: Floats
    sure: Mask

    def __len__(self) -> int:
        return len(self.ncc)

    @property
    def shift_px(self) -> float | None:
        """Length of the median shift of the sure windows; None with fewer than two, or a third."""
        if int(self.sure.sum()) < 2 or 3 * int(self.sure.sum()) < len(self):
            return None
        return float(np.linalg.norm(np.median(self.shift_yx_px[self.sure], axis=0)))

    @property
    def median_ncc(self) -> float | None:
        """Median correlation where the windows lie; None without windows."""
        return float(np.median(self.ncc)) if len(self) else None

    def unlike(self, usual_ncc: float) -> Mask:
        """Windows (N,) that correlate far less than is usual: below a third, or below what chance gives."""
        return self.ncc < max(usual_ncc / 3.0, LEAST_NCC)

    def displaced(self, limit_px: float) -> Mask:
        """Windows (N,) whose own best place is farther than a limit and shared by another window near by.

        Alone, a window may find a better place by chance; misplaced tissue moves its neighbours too.
        """
        length = np.linalg.norm(self.shift_yx_px, axis=1)
        far = np.flatnonzero(self.sure & (length > limit_px))
        out = np.zeros(len(self), dtype=np.bool_)
        if len(far) < 2:
            return out
        centres, shifts = self.centre_yx[far], self.shift_yx_px[far]
        near = np.abs(centres[:, None] - centres[None]).max(axis=-1) <= 1.6 * self.spacing_px
        alike = np.linalg.norm(shifts[:, None] - shifts[None], axis=-1) <= np.maximum(
            limit_px / 2, length[far] / 3
        )
        together = near & alike & ~np.eye(len(far), dtype=np.bool_)
        out[far[np.any(together, axis=1)]] = True
        return out

    @property
    def spacing_px(self) -> float:
        """Usual distance from a window to the next, px (on the axis on which it is larger)."""
        if len(self) < 2:
            return 0.0
        away = np.asarray(KDTree(self.centre_yx).query(self.centre_yx, k=2, p=np.inf)[0])
        return float(np.median(away[:, 1]))


LEAST_NCC = 0.1
NO_WINDOWS = Windows(
    centre_yx=np.zeros((0, 2)),
    ncc=np.zeros(0),
    peak=np.zeros(0),
    shift_yx_px=np.zeros((0, 2)),
    sure=np.zeros(0, dtype=np.bool_),
)


def section_factor(shape_yx: tuple[int, int], pixel_nm: float) -> int:
    """Reduction at which the aligned sections of a frame are compared."""
    longest = max(shape_yx)
    wanted = min(round(PIXEL_NM / pixel_nm), longest // SHORTEST_PX)
    return max(1, wanted, -(-longest // LONGEST_PX))


def seam_factor(shape_yx: tuple[int, int]) -> int:
    """Reduction at which overlaps of tiles are compared: small tiles have thin overlaps."""
    return 2 if min(shape_yx) >= LARGE_TILE_PX else 1


def section_plane(reduced: Image, mask: Mask, factor: int) -> Plane:
    """Band-pass a reduced section, so that neither shading nor noise decides."""
    image = band_pass(reduced, mask, fine_px=SECTION_BAND_PX[0], coarse_px=SECTION_BAND_PX[1])
    return Plane(image=image, mask=mask, factor=factor)


def tile_plane(reduced: Image, mask: Mask, factor: int) -> Plane:
    """The same for a tile, whose shading ends at its borders, where seams are."""
    fine, coarse = (px / factor for px in SEAM_BAND_PX)
    image = band_pass(reduced, mask, fine_px=fine, coarse_px=coarse)
    return Plane(image=image, mask=mask, factor=factor)


def placed(
    plane: Plane, warp: Warp, *, corner_yx: tuple[float, float], shape_yx: tuple[int, int], factor: int
) -> tuple[Image, Mask]:
    """Draw a plane where its warp puts it: image and mask (shape_yx) of the frame from `corner_yx` on."""
    half = (plane.factor - 1) / 2.0

    def source_of(points_yx: Floats) -> Floats:
        frame = points_yx * factor + (factor - 1) / 2.0 + np.asarray(corner_yx)
        return (warp.inverse(frame) - half) / plane.factor

    coordinates = dense_coordinates(source_of, (0, 0), shape_yx)
    box = source_box(coordinates, plane.image.shape)
    if box is None:
        return np.zeros(shape_yx, np.float32), np.zeros(shape_yx, np.bool_)
    return pull(plane.image[box], plane.mask[box], coordinates, box)


def compare(
    a: Image, mask_a: Mask, b: Image, mask_b: Mask, *, factor: int, within: tuple[slice, slice] | None = None
) -> Windows:
    """Compare two images of one frame, both (H, W) at reduction `factor`, window by window.

    Args:
        within: the part in which windows are laid; without it the whole. Outside of it they may be found.

    Returns:
        Windows with texture in both, in full px relative to the images' corner.
    """
    part = within or (slice(0, a.shape[0]), slice(0, a.shape[1]))
    reach = max(8, -(-REACH_PX // factor))
    extent = [s.stop - s.start for s in part]
    window = (min(WINDOW_PX, extent[0]), min(WINDOW_PX, extent[1]))
    if min(window) < LEAST_WINDOW_PX:
        return NO_WINDOWS
    axes = [_starts(s.start, n, w) for s, n, w in zip(part, extent, window, strict=True)]
    corners = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    ncc, measured = _where_they_lie(a, mask_a, b, mask_b, corners, window)
    corners, ncc = corners[measured], ncc[measured]
    if not len(corners):
        return NO_WINDOWS
    found = match_patches(
        a,
        mask_a,
        b,
        mask_b,
        fixed_corner_yx=corners,
        moving_corner_yx=corners,
        patch_yx_px=window,
        reach_px=reach,
        min_cover=MIN_COVER,
    )
    ratio = np.maximum(found.second, 0.0) / np.maximum(found.peak, 1e-6)
    centre = corners + (np.array(window) - 1) / 2.0
    return Windows(
        centre_yx=centre * factor + (factor - 1) / 2.0,
        ncc=ncc,
        peak=np.maximum(found.peak, ncc),
        shift_yx_px=np.where(found.valid[:, None], found.shift_yx_px * factor, 0.0),
        sure=found.valid & (found.peak >= SURE_PEAK) & (ratio <= SURE_RATIO),
    )


def _starts(first: int, extent: int, window: int) -> NDArray[np.int64]:
    """Corners of windows spread evenly over an axis."""
    count = int(np.clip(extent // SPACING_PX, 1, GRID))
    if count == 1:
        return np.array([first + (extent - window) // 2])
    return first + np.rint(np.linspace(0, extent - window, count)).astype(np.int64)


def _where_they_lie(
    a: Image, mask_a: Mask, b: Image, mask_b: Mask, corners: NDArray[np.int64], window: tuple[int, int]
) -> tuple[Floats, Mask]:
    """Correlation of each window with what lies under it (N,), and whether there is enough to see (N,)."""
    ncc, measured = np.zeros(len(corners)), np.zeros(len(corners), dtype=np.bool_)
    for k, (y, x) in enumerate(corners):
        cut = (slice(y, y + window[0]), slice(x, x + window[1]))
        common = mask_a[cut] & mask_b[cut]
        if common.mean() < MIN_COVER:
            continue
        u, v = a[cut][common].astype(np.float64), b[cut][common].astype(np.float64)
        u, v = u - u.mean(), v - v.mean()
        energy = float(np.sqrt((u**2).mean() * (v**2).mean()))
        measured[k] = min((u**2).mean(), (v**2).mean()) >= MIN_TEXTURE**2
        ncc[k] = float((u * v).mean()) / max(energy, 1e-9)
    return ncc, measured


def seam_windows(a: Plane, warp_a: Warp, b: Plane, warp_b: Warp) -> Windows:
    """Compare two placed tiles where they overlap; windows in px of the section, none without an overlap."""
    factor = a.factor
    low, high = _bounds(a, warp_a), _bounds(b, warp_b)
    start, stop = np.maximum(low[0], high[0]), np.minimum(low[1], high[1])
    size = np.floor((stop - start) / factor).astype(int)
    if size.min() < LEAST_WINDOW_PX:
        return NO_WINDOWS
    margin = -(-REACH_PX // factor)
    corner = start - margin * factor
    shape = (int(size[0]) + 2 * margin, int(size[1]) + 2 * margin)
    at = (float(corner[0]), float(corner[1]))
    drawn = [
        placed(tile, warp, corner_yx=at, shape_yx=shape, factor=factor)
        for tile, warp in ((a, warp_a), (b, warp_b))
    ]
    within = (slice(margin, shape[0] - margin), slice(margin, shape[1] - margin))
    windows = compare(*drawn[0], *drawn[1], factor=factor, within=within)
    return replace(windows, centre_yx=windows.centre_yx + corner)


def _bounds(tile: Plane, warp: Warp) -> tuple[Floats, Floats]:
    """Lowest and highest y, x of a placed tile's corners."""
    h, w = (n * tile.factor - 1 for n in tile.image.shape)
    corners = warp.apply(np.array([[0, 0], [0, w], [h, 0], [h, w]], dtype=np.float64))
    return corners.min(axis=0), corners.max(axis=0)


def coverage(centre_yx: Floats, points_yx: Floats, *, reach_px: float) -> float | None:
    """Share of windows (N, 2) with a matched point (M, 2) near by; None without windows."""
    if not len(centre_yx):
        return None
    if not len(points_yx):
        return 0.0
    away = np.asarray(KDTree(points_yx).query(centre_yx, p=np.inf)[0])
    return float(np.mean(away <= reach_px))
