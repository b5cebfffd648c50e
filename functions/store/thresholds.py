"""Thresholds of agglomeration, chosen on ground truth: a small file that `agglomerate.thresholds` names."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from functions.model.base import Document
from functions.store.files import write_json


class Thresholds(Document):
    """What was chosen, for which network, and on what; VOI in bits."""

    format: Literal["petavoxel.thresholds/1"] = "petavoxel.thresholds/1"
    model_sha256: str
    """Of the file of the network whose evidence was judged."""
    seeds: Literal["both", "either"]
    min_score: float
    truth: str
    """What it was chosen on: that volume says nothing more about how good it is."""
    voi_split: float
    voi_merge: float
    voi_split_before: float
    voi_merge_before: float


def write_thresholds(path: Path, thresholds: Thresholds) -> None:
    """Write the file."""
    write_json(path, thresholds.to_json())


def read_thresholds(path: Path) -> Thresholds:
    """Read the file.

    Raises:
        TaskError: not such a file, naming the field.
        OSError: it cannot be read.
    """
    return Thresholds.parse(path.read_bytes(), source=str(path))
