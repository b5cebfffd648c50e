"""Numbers on the command line: `64,256,256`, `16`, `10,4,4`, `z0:z1,y0:y1,x0:x1`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from functions.model.geometry import Box


def voxels_zyx(text: str, option: str) -> tuple[int, int, int]:
    """Three whole numbers z,y,x; one number stands for all three axes."""
    parts = _three(text, option)
    if not all(part.strip().isdecimal() for part in parts):
        raise typer.BadParameter(f"{text!r} is not three whole numbers like 64,256,256", param_hint=option)
    z, y, x = (int(part) for part in parts)
    return z, y, x


def sizes_nm(text: str, option: str) -> tuple[float, float, float]:
    """Three positive lengths z,y,x; one number stands for all three axes."""
    try:
        z, y, x = (float(part) for part in _three(text, option))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not three numbers like 40,4,4", param_hint=option) from None
    if not all(math.isfinite(size) and size > 0 for size in (z, y, x)):
        raise typer.BadParameter(f"{text!r}: sizes must be positive", param_hint=option)
    return z, y, x


def point(text: str, option: str, *, axes: str) -> tuple[float, ...]:
    """A point of as many numbers as `axes` has letters, e.g. 812.5,1040 for `yx`."""
    parts = text.split(",")
    try:
        values = tuple(float(part) for part in parts)
    except ValueError:
        values = ()
    if len(values) != len(axes) or not all(math.isfinite(v) for v in values):
        example = {"yx": "812.5,1040", "zyx": "3,812.5,1040"}[axes]
        raise typer.BadParameter(f"{text!r} is not a point like {example}", param_hint=option)
    return values


def box_zyx(text: str | None, option: str) -> Box | None:
    """A box of `77:173,77:173,77:173`, half-open on each axis; one range stands for all three."""
    from functions.model.geometry import Box

    if text is None:
        return None
    ranges = [part.split(":") for part in _three(text, option)]
    if not all(len(r) == 2 and all(n.strip().isdecimal() for n in r) for r in ranges):
        raise typer.BadParameter(f"{text!r} is not a box like 0:64,0:256,0:256", param_hint=option)
    (z0, z1), (y0, y1), (x0, x1) = ((int(a), int(b)) for a, b in ranges)
    if z1 <= z0 or y1 <= y0 or x1 <= x0:
        raise typer.BadParameter(f"{text!r}: each range must end behind its start", param_hint=option)
    return Box(offset_zyx=(z0, y0, x0), shape_zyx=(z1 - z0, y1 - y0, x1 - x0))


def _three(text: str, option: str) -> list[str]:
    parts = text.split(",")
    parts = parts * 3 if len(parts) == 1 else parts
    if len(parts) != 3:
        raise typer.BadParameter(f"{text!r}: give one value or three, in the order z,y,x", param_hint=option)
    return parts
