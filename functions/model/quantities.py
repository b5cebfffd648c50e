"""Volumes, rates and figures as people write and read them: `1mm3`, `80MVx/h`, `2.74 years`."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import ClassVar

from pydantic import ConfigDict

from functions.model.base import Document
from functions.model.errors import TaskError

HOURS_PER_YEAR = 8766.0
"""365.25 days."""

_CUBIC = {"nm3": 1.0, "um3": 1e9, "mm3": 1e18, "cm3": 1e21}
"""Cubic nanometres in a volume unit."""
_PREFIX = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_NUMBER = r"([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One planned quantity with the formula that gives it, and its interval where its rate was measured."""

    name: str
    value: float
    unit: str
    formula: str
    low: float | None = None
    high: float | None = None

    __pydantic_config__: ClassVar[ConfigDict] = Document.model_config
    """A stored one is as strict as the document that it is in."""


def parse_volume(text: str) -> float:
    """Cubic nanometres of `1mm3`, `0.5 mm3`, `1000um3` or `1mm^3`.

    Raises:
        TaskError: the text is not a positive number with one of the units.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*(nm|um|µm|mm|cm)\^?[3³]", text.strip())
    if not match:
        raise TaskError(
            f"volume: {text!r} is not a number with a unit",
            remedy="write it like 1mm3, with nm3, um3, mm3 or cm3",
        )
    volume = float(match[1]) * _CUBIC[match[2].replace("µ", "u") + "3"]
    if not 0 < volume < math.inf:
        raise TaskError(f"volume: {text!r} is not a finite positive volume", remedy="write it like 1mm3")
    return volume


def parse_rate(text: str) -> float:
    """Voxels an hour of `80MVx/h`, `1GVx/h`, `250kVx/s`.

    Raises:
        TaskError: the text is not a positive rate.
    """
    match = re.fullmatch(rf"{_NUMBER}\s*([kMGTPE]?)[Vv]x/(s|h|d)", text.strip())
    if not match:
        raise TaskError(f"rate: {text!r} is not a rate", remedy="write it like 80MVx/h, 1GVx/h or 20kVx/s")
    rate = float(match[1]) * _PREFIX[match[2]] * {"s": 3600.0, "h": 1.0, "d": 1 / 24}[match[3]]
    if not 0 < rate < math.inf:
        raise TaskError(f"rate: {text!r} is not a finite positive rate", remedy="write it like 1GVx/h")
    return rate


def scaled(value: float, unit: str) -> str:
    """A figure for people: `12.5 M GPU-h`, `24.0 h`, `2.74 years`, `1.00 PB`.

    Hours from 90 days on become years.
    """
    if unit == "h":
        if value >= 90 * 24:
            return f"{value / HOURS_PER_YEAR:.2f} years"
        return f"{value / 24:.1f} days" if value > 48 else f"{value:.3g} h"
    if unit == "x":
        return f"{value:.3f} x"
    if 0 < value < 0.1:
        return f"{value:.3g} {unit}"
    symbol, size = max(((p, s) for p, s in _PREFIX.items() if s <= max(value, 1.0)), key=lambda item: item[1])
    short = {"bytes": "B", "voxels": "Vx"}.get(unit, f" {unit}")
    return f"{value / size:.3g} {symbol}{short}".replace("  ", " ")


def interval(low: float | None, high: float | None, unit: str) -> str:
    """Two limits for people; `-` without them."""
    return "-" if low is None or high is None else f"{scaled(low, unit)} to {scaled(high, unit)}"
