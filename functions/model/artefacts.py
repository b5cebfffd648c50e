"""What a place of a section shows: the codes of arrays, and their names in parameters and files."""

from __future__ import annotations

from typing import Literal

OUTSIDE, TISSUE, RESIN, FOLD, CRACK, CHARGING = range(6)
NAMES = ("outside", "tissue", "resin", "fold", "crack", "charging")
"""Name of each code."""
ArtefactName = Literal["resin", "fold", "crack", "charging"]
"""What may be avoided."""
UNSEEN = (OUTSIDE, FOLD, CRACK, CHARGING)
"""Codes of voxels whose grey values show no tissue that anybody could judge a segmentation by."""
