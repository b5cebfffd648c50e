"""The learning curves as a picture: loss above, below it what validation found, over the steps. Pure.

Drawn with Pillow, in the colours of the report's plots.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Points = list[tuple[float, float]]
Log = Sequence[Mapping[str, float]]
RGB = tuple[int, int, int]

WIDTH, PANEL, LEFT, RIGHT, TOP, BOTTOM = 1120, 380, 84, 30, 44, 46
INK, GRID, MUTED, PALE = (32, 38, 46), (226, 230, 235), (96, 106, 118), (190, 212, 238)
BLUE, ORANGE, GREEN = (30, 110, 200), (224, 110, 20), (40, 140, 90)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Series:
    name: str
    points: Points
    colour: RGB
    dots: bool = True


def learning_curves(log: Log, *, best_step: int | None = None) -> bytes:
    """A PNG of the training's log: loss, and where it was validated VOI (split, merge, sum) by steps.

    `best_step` is marked. A log without lines gives empty axes.
    """
    raw = _series(log, "loss")
    every = _Series(name="", points=raw, colour=PALE, dots=False)
    loss = _Series(name="loss, running mean", points=_running_mean(raw), colour=BLUE, dots=False)
    panels = [("loss", [every, loss])]
    if any("voi_sum" in line for line in log):
        voi = [
            _Series(name="VOI split + merge", points=_series(log, "voi_sum"), colour=BLUE),
            _Series(name="split", points=_series(log, "voi_split"), colour=ORANGE),
            _Series(name="merge", points=_series(log, "voi_merge"), colour=GREEN),
        ]
        panels.append(("VOI of held-out volumes, bits (D: 0 filled by the nearest segment)", voi))
    last = max((line["step"] for line in log), default=1.0)
    picture = Image.new("RGB", (WIDTH, PANEL * len(panels)), "white")
    draw = ImageDraw.Draw(picture)
    for i, (title, series) in enumerate(panels):
        _panel(draw, i * PANEL, title, series, last_step=last, best_step=best_step)
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def _series(log: Log, name: str) -> Points:
    return [(line["step"], line[name]) for line in log if name in line and math.isfinite(line[name])]


def _running_mean(points: Points) -> Points:
    """The mean over a fortieth of all points around each; of a short log the points themselves."""
    half = len(points) // 80
    steps, values = [p[0] for p in points], np.array([p[1] for p in points])
    return [(step, float(values[max(0, i - half) : i + half + 1].mean())) for i, step in enumerate(steps)]


def _panel(
    draw: ImageDraw.ImageDraw,
    top: int,
    title: str,
    series: Sequence[_Series],
    *,
    last_step: float,
    best_step: int | None,
) -> None:
    """One plot: grid, curves, legend, and a dashed line at the best step."""
    highest = _highest([y for s in series for _, y in s.points])
    y0, y1 = top + PANEL - BOTTOM, top + TOP
    small, large = ImageFont.load_default(15), ImageFont.load_default(17)

    def place(step: float, value: float) -> tuple[float, float]:
        value = min(value, highest)
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last_step, y0 - (y0 - y1) * value / highest

    for tick in _ticks(highest):
        y = place(0, tick)[1]
        draw.line([(LEFT, y), (WIDTH - RIGHT, y)], fill=GRID, width=1)
        draw.text((LEFT - 10, y), f"{tick:g}", fill=MUTED, font=small, anchor="rm")
    for tick in _ticks(last_step):
        draw.text((place(tick, 0)[0], y0 + 9), f"{tick:,.0f}", fill=MUTED, font=small, anchor="mt")
    draw.text((WIDTH - RIGHT, y0 + 28), "steps", fill=MUTED, font=small, anchor="rt")
    draw.text((LEFT, top + 12), title, fill=INK, font=large)
    if best_step is not None:
        _dashes(draw, place(best_step, 0)[0], y1, y0)
        draw.text((place(best_step, 0)[0] - 6, y1 + 2), "kept", fill=MUTED, font=small, anchor="rt")
    x = WIDTH - RIGHT
    for s in reversed(series):
        places = [place(*point) for point in s.points]
        if len(places) > 1:
            draw.line(places, fill=s.colour, width=3 if s.name else 1, joint="curve")
        if s.dots or len(places) == 1:
            for px, py in places:
                draw.ellipse([px - 4, py - 4, px + 4, py + 4], fill=s.colour)
        draw.text((x, top + 12), s.name, fill=s.colour, font=large, anchor="ra")
        x -= int(draw.textlength(s.name, font=large)) + 24 * bool(s.name)


def _highest(values: Sequence[float]) -> float:
    """The top of the axis. The first few values of a training may dwarf all others: they are cut off."""
    if not values:
        return 1.0
    most = max(values)
    if len(values) >= 20:
        most = min(most, 2.5 * float(np.percentile(values, 80)))
    return 1.08 * most or 1.0


def _ticks(highest: float) -> list[float]:
    """About five round values from 0."""
    power = 10.0 ** math.floor(math.log10(highest / 5))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= highest / 5 * 0.999)
    return [round(i * step, 10) for i in range(int(highest / step + 1e-9) + 1)]


def _dashes(draw: ImageDraw.ImageDraw, x: float, y0: float, y1: float) -> None:
    for y in range(int(y0), int(y1), 10):
        draw.line([(x, y), (x, y + 5)], fill=MUTED, width=1)
