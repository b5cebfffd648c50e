"""Plots as inline SVG. Numbers are formatted here; every text from outside is escaped by markupsafe."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from functions.model.transform import Seam, SectionLayout, TileTransform
from functions.registration.evidence import Windows

STOPS = np.array([[0, 114, 178], [86, 180, 233], [240, 228, 66], [213, 94, 0]], dtype=float)
"""Blue, sky blue, yellow, vermilion: told apart by every kind of colour vision (Okabe and Ito, 2008)."""
NEUTRAL = "#c8c8c8"
MOST_DOTS = 1200
"""A plot of more points is a line only: the page stays small."""


def residual_colour(value_px: float | None, *, worst_px: float) -> str:
    """From blue at 0 over yellow to vermilion at `worst_px`; gray where nothing was measured."""
    if value_px is None:
        return NEUTRAL
    at = float(np.clip(value_px / worst_px, 0, 1)) * (len(STOPS) - 1)
    low = min(int(at), len(STOPS) - 2)
    r, g, b = (STOPS[low] + (at - low) * (STOPS[low + 1] - STOPS[low])).round().astype(int)
    return f"#{r:02x}{g:02x}{b:02x}"


def seam_map(
    layout: SectionLayout, *, worst_px: float, windows: Sequence[Windows] = (), name: str = "matches"
) -> Markup:
    """Tile outlines and seams of a section, in section px, to lie over its picture.

    Seams have the colour of their matches' residual. With `windows`, one set a seam, the windows are drawn
    instead, in the colour of what their images do not share, with an arrow to where they would fit.
    """
    height, width = layout.shape_yx
    stroke = max(height, width) / 600
    boxes = {tile.tile_id: _bounds(tile) for tile in layout.tiles}
    parts = [
        Markup('<rect x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" class="tile"/>').format(
            x0, y0, x1 - x0, y1 - y0
        )
        for y0, x0, y1, x1 in boxes.values()
    ]
    if windows:
        parts += [window_marks(w, side_px=13 * stroke, stroke_px=stroke) for w in windows]
    else:
        parts += [_seam(seam, boxes[seam.a], boxes[seam.b], worst_px, stroke) for seam in layout.seams]
    label = f"Seams of {layout.section}, by {name}"
    return _svg(width, height, Markup("").join(parts), label=label, stroke=stroke, kind=f"over {name}")


def window_marks(windows: Windows, *, side_px: float, stroke_px: float) -> Markup:
    """Windows as squares, blue where both images show the same and vermilion where not; with sure shifts."""
    parts = []
    for (y, x), (dy, dx), ncc, sure in zip(
        windows.centre_yx, windows.shift_yx_px, windows.ncc, windows.sure, strict=True
    ):
        length = float(np.hypot(dy, dx))
        title = f"correlation {ncc:.2f}" + (f", fits {length:.1f} px away" if sure else ", no sure place")
        colour = residual_colour(1.0 - float(ncc), worst_px=1.0)
        parts.append(
            Markup('<rect x="{:.0f}" y="{:.0f}" width="{:.0f}" height="{:.0f}" fill="{}" class="win">'
                   "<title>{}</title></rect>").format(
                x - side_px / 2, y - side_px / 2, side_px, side_px, colour, title
            )
        )  # fmt: skip
        if sure and length >= 1.0:
            parts.append(
                Markup('<path d="M{0:.0f} {1:.0f}l{2:.1f} {3:.1f}" stroke="#111" stroke-width="{4:.1f}"/>'
                       '<path d="M{0:.0f} {1:.0f}l{2:.1f} {3:.1f}" stroke="#fff" stroke-width="{5:.1f}"/>'
                       ).format(x, y, dx, dy, 3 * stroke_px, 1.2 * stroke_px)
            )  # fmt: skip
    return Markup("").join(parts)


def pair_map(windows: Windows, shape_yx: tuple[int, int], *, label: str) -> Markup:
    """What two aligned sections share, window by window, on a map of the volume's frame."""
    height, width = shape_yx
    stroke = max(height, width) / 240
    side = min(0.92 * windows.spacing_px, max(height, width) / 8) or max(height, width) / 12
    frame = Markup('<rect width="{:.0f}" height="{:.0f}" class="frame"/>').format(width, height)
    body = frame + window_marks(windows, side_px=side, stroke_px=stroke)
    return _svg(width, height, body, label=label, stroke=stroke, kind="map")


def small_map(layout: SectionLayout, values: Sequence[float | None], *, worst_px: float) -> Markup:
    """A section's seams as dots at their places, in the colours of their values."""
    height, width = layout.shape_yx
    radius = max(height, width) / (16 if len(layout.seams) < 40 else 34)
    parts = [
        Markup('<circle cx="{:.0f}" cy="{:.0f}" r="{:.0f}" fill="{}"/>').format(
            seam.centre_yx[1], seam.centre_yx[0], radius, residual_colour(value, worst_px=worst_px)
        )
        for seam, value in zip(layout.seams, values, strict=True)
    ]
    frame = Markup('<rect width="{:.0f}" height="{:.0f}" class="frame"/>').format(width, height)
    body = frame + Markup("").join(parts)
    return _svg(width, height, body, label=f"Seams of {layout.section}", stroke=1.0, kind="map")


def _seam(
    seam: Seam,
    a: tuple[float, float, float, float],
    b: tuple[float, float, float, float],
    worst_px: float,
    stroke: float,
) -> Markup:
    """The overlap of two tiles, in the colour of its residual; dashed where it could not be used."""
    y0, x0, y1, x1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    value = seam.residual_px_p95
    dash = "" if seam.verdict in ("ok", "look") else f"{4 * stroke:.1f} {3 * stroke:.1f}"
    title = f"{seam.a} / {seam.b}: {seam.verdict}, {seam.matches} matches"
    title += "" if value is None else f", p95 {value:.2f} px"
    least = 6 * stroke
    return Markup(
        '<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" fill="{}" stroke="{}" '
        'stroke-dasharray="{}" class="seam"><title>{}</title></rect>'
    ).format(
        min(x0, x1 - least) if x1 > x0 else x0 - least / 2,
        min(y0, y1 - least) if y1 > y0 else y0 - least / 2,
        max(x1 - x0, least),
        max(y1 - y0, least),
        residual_colour(value, worst_px=worst_px),
        residual_colour(value, worst_px=worst_px),
        dash,
        title,
    )


def quiver(
    grid_yx: NDArray[np.float64],
    displacement_px: NDArray[np.float64],
    *,
    shape_yx: tuple[int, int],
    longest_px: float,
    label: str,
) -> Markup:
    """Arrows (gy, gx, 2) over a section's picture; the longest is one grid step long."""
    height, width = shape_yx
    stroke = max(height, width) / 360
    step = max(
        grid_yx[-1, -1, 0] / max(len(grid_yx) - 1, 1), grid_yx[-1, -1, 1] / max(grid_yx.shape[1] - 1, 1), 1
    )
    scale = step / max(longest_px, 1e-6)
    parts = []
    for (y, x), (dy, dx) in zip(grid_yx.reshape(-1, 2), displacement_px.reshape(-1, 2), strict=True):
        colour = residual_colour(float(np.hypot(dy, dx)), worst_px=max(longest_px, 1e-6))
        parts.append(
            Markup('<path d="M{:.0f} {:.0f}l{:.1f} {:.1f}" stroke="{}"/><circle cx="{:.0f}" cy="{:.0f}" '
                   'r="{:.1f}" fill="{}"/>').format(
                x, y, dx * scale, dy * scale, colour, x, y, stroke * 1.4, colour
            )
        )  # fmt: skip
    body = Markup('<g stroke-width="{:.2f}" stroke-linecap="round">{}</g>').format(
        stroke * 1.6, Markup("").join(parts)
    )
    return _svg(width, height, body, label=label, stroke=stroke)


def line_plot(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    *,
    x_label: str,
    y_label: str,
    zero: bool = True,
) -> Markup:
    """Points and lines over a shared axis; each series is a name and (x, y) pairs in ascending x."""
    width, height, left, bottom, top = 760.0, 230.0, 52.0, 34.0, 12.0
    points = np.array([p for _, row in series for p in row], dtype=float).reshape(-1, 2)
    if not len(points):
        return Markup("")
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    y0 = min(0.0, y0) if zero else y0
    y1 = y1 if y1 > y0 else y0 + 1.0
    x1 = x1 if x1 > x0 else x0 + 1.0
    y1 += 0.06 * (y1 - y0)

    def sx(v: float) -> float:
        return left + float((v - x0) / (x1 - x0)) * (width - left - 14)

    def sy(v: float) -> float:
        return height - bottom - float((v - y0) / (y1 - y0)) * (height - bottom - top)

    right, base = width - 14, height - bottom
    parts = [_y_tick(tick, sy(tick), left, right) for tick in _ticks(y0, y1)]
    parts += [
        Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{:g}</text>').format(sx(t), base + 17, t)
        for t in _ticks(x0, x1)
    ]
    for number, (name, row) in enumerate(series):
        path = "L".join(f"{sx(x):.1f} {sy(y):.1f}" for x, y in row)
        parts.append(Markup('<path class="line s{}" d="M{}"/>').format(number, path))
        if len(points) <= MOST_DOTS:
            parts += [_dot(number, sx(x), sy(y), f"{name} {x:g}: {y:.3g}") for x, y in row]
    parts.append(
        Markup('<text class="axis" x="{:.1f}" y="{:.1f}" text-anchor="end">{}</text>').format(
            right, height - 3, x_label
        )
    )
    parts.append(
        Markup('<text class="axis" x="13" y="{0:.1f}" transform="rotate(-90 13 {0:.1f})" '
               'text-anchor="middle">{1}</text>').format(height / 2, y_label)
    )  # fmt: skip
    return Markup('<svg class="plot" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        width, height, f"{y_label} over {x_label}", Markup("").join(parts)
    )


def _y_tick(value: float, y: float, left: float, right: float) -> Markup:
    return Markup(
        '<path class="grid" d="M{:.1f} {:.1f}H{:.1f}"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="end">{:g}</text>'
    ).format(left, y, right, left - 7, y + 4, value)


def _dot(number: int, x: float, y: float, title: str) -> Markup:
    return Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3"><title>{}</title></circle>').format(
        number, x, y, title
    )


def _ticks(low: float, high: float) -> list[float]:
    """About five round values in [low, high]."""
    raw = (high - low) / 5
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [round(i * step, 10) for i in range(first, last + 1)]


def _bounds(tile: TileTransform) -> tuple[float, float, float, float]:
    """y0, x0, y1, x1 of a tile's corners in section px."""
    h, w = tile.shape_yx
    corners = tile.warp.apply(np.array([[0, 0], [0, w], [h, 0], [h, w]], dtype=np.float64))
    (y0, x0), (y1, x1) = corners.min(axis=0), corners.max(axis=0)
    return float(y0), float(x0), float(y1), float(x1)


def _svg(
    width: float, height: float, body: Markup, *, label: str, stroke: float, kind: str = "over"
) -> Markup:
    return Markup(
        '<svg class="{}" viewBox="0 0 {:.0f} {:.0f}" style="--stroke:{:.2f}px" role="img" '
        'aria-label="{}">{}</svg>'
    ).format(kind, width, height, stroke, label, body)
