"""Arrays to pictures that a page carries in itself: stable colours, overlays, data addresses. Pure."""

from __future__ import annotations

import base64
import io
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from functions.model.artefacts import CHARGING, CRACK, FOLD, NAMES, RESIN

Gray = NDArray[np.uint8]
Colour = NDArray[np.uint8]
Labels = NDArray[np.unsignedinteger]

INSIDE_ALPHA = 105
BORDER_ALPHA = 235
CODE_ALPHA = 170
CODE_COLOURS = {RESIN: (86, 180, 233), FOLD: (213, 94, 0), CRACK: (240, 228, 66), CHARGING: (204, 121, 167)}
"""Colours that the colour-blind can tell apart (Okabe and Ito)."""
A_COLOUR = np.array([255, 138, 30], dtype=np.float32)
B_COLOUR = np.array([30, 150, 255], dtype=np.float32)


def data_uri(pixels: Gray | Colour, *, kind: Literal["jpeg", "png"]) -> str:
    """A picture (Y, X), (Y, X, 3) or (Y, X, 4) as a data address; JPEG for images, PNG for overlays."""
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    if kind == "jpeg":
        picture.save(stream, format="JPEG", quality=82, optimize=True)
    else:
        picture.save(stream, format="PNG", optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def resize(pixels: NDArray[np.generic], shape_yx: tuple[int, int], *, smooth: bool) -> NDArray[np.generic]:
    """Resize (Y, X): area-weighted or linear for images, nearest for labels (any integer type)."""
    rows, columns = max(1, shape_yx[0]), max(1, shape_yx[1])
    if not smooth:
        y = (np.arange(rows) * pixels.shape[0]) // rows
        x = (np.arange(columns) * pixels.shape[1]) // columns
        return pixels[np.ix_(y, x)]
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BOX if rows < pixels.shape[0]
                                     else Image.Resampling.BICUBIC))  # fmt: skip


def fit(shape_yx: tuple[float, float], longest_px: int) -> tuple[int, int]:
    """The shape scaled so that its longer side is `longest_px`."""
    scale = longest_px / max(shape_yx)
    return max(1, round(shape_yx[0] * scale)), max(1, round(shape_yx[1] * scale))


def stretch(image: Gray) -> Gray:
    """Spread the grey values between the 0.5th and 99.5th percentile of what is not 0; 0 stays 0."""
    tissue = image[image > 0]
    if tissue.size == 0:
        return image
    low, high = np.percentile(tissue, (0.5, 99.5))
    scaled = (image.astype(np.float32) - low) * (250.0 / max(float(high - low), 1.0)) + 5.0
    return np.where(image > 0, np.clip(scaled, 1, 255), 0).astype(np.uint8)


def segment_colours(labels: Labels) -> Colour:
    """Colour (..., 3) of each id of an array, the same in every picture and run: a hash of the id alone."""
    ids = np.atleast_1d(labels).astype(np.uint64)  # scalars would warn where arrays wrap around
    h = (ids + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(29)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(32)
    hue = (h & np.uint64(0xFFFF)).astype(np.float32) / 65536.0
    light = ((h >> np.uint64(16)) & np.uint64(0xFF)).astype(np.float32) / 255.0
    return _hsv(hue, 0.55 + 0.4 * light, 1.0 - 0.25 * (1.0 - light))


def overlay(labels: Labels) -> Colour:
    """Transparent picture (Y, X, 4) of labels (Y, X): ids tinted, their borders strong, background clear."""
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (0, 1):
        differs = np.diff(labels, axis=axis) != 0
        border |= np.pad(differs, [(0, 1) if a == axis else (0, 0) for a in (0, 1)])
        border |= np.pad(differs, [(1, 0) if a == axis else (0, 0) for a in (0, 1)])
    alpha = np.where(border, BORDER_ALPHA, INSIDE_ALPHA) * (labels > 0)
    return np.concatenate([segment_colours(labels), alpha.astype(np.uint8)[..., None]], axis=-1)


def code_overlay(codes: Gray) -> Colour:
    """Transparent picture (Y, X, 4) of artefact codes (Y, X): each in its colour, tissue clear."""
    palette = np.zeros((len(NAMES), 4), np.uint8)
    for code, colour in CODE_COLOURS.items():
        palette[code] = (*colour, CODE_ALPHA)
    return np.asarray(palette[codes])


def composite(a: Gray, b: Gray) -> Colour:
    """Two pictures in one (Y, X, 3): gray where they agree or one is alone, orange where a, blue where b."""
    both = ((a > 0) & (b > 0))[..., None]
    mixed = (a[..., None] * A_COLOUR + b[..., None] * B_COLOUR) / (A_COLOUR + B_COLOUR) * [1, 1, 1]
    tint = (a[..., None].astype(np.float32) - b[..., None]) * np.array([0.5, 0.05, -0.5])
    alone = np.maximum(a, b)[..., None] * np.ones(3)
    return np.clip(np.where(both, mixed + tint, alone * 0.55), 0, 255).astype(np.uint8)


def difference(a: Gray, b: Gray) -> Gray:
    """How far two pictures differ where both have pixels: black is equal."""
    apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return np.where((a > 0) & (b > 0), np.minimum(apart * 2, 255), 0).astype(np.uint8)


def flow_colours(displacement_px: NDArray[np.float64], *, longest_px: float) -> Colour:
    """Colour (Y, X, 3) of displacements (Y, X, 2; y, x): hue is the direction, strength the length."""
    dy, dx = displacement_px[..., 0], displacement_px[..., 1]
    hue = (np.arctan2(dy, dx) / (2 * np.pi)) % 1.0
    strength = np.clip(np.hypot(dy, dx) / max(longest_px, 1e-6), 0, 1)
    return _hsv(
        hue.astype(np.float32), strength.astype(np.float32), np.full_like(hue, 0.96, dtype=np.float32)
    )


def _hsv(hue: NDArray[np.float32], saturation: NDArray[np.float32], value: NDArray[np.float32]) -> Colour:
    """HSV in [0, 1] to RGB, uint8."""
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = (offset + hue * 6.0) % 6.0
        channels.append(value - value * saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
    return (np.stack(channels, axis=-1) * 255.0 + 0.5).astype(np.uint8)
