"""Verdicts on reduced precision, beside the weights they are about: `<model>.gate.json`.

One entry for each precision and kind of device, bound to the weights by their hash: other weights under the
same name have no verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from functions.model.base import Document
from functions.model.errors import ModelError, TaskError
from functions.model.parameters import Precision
from functions.store.files import write_json


class GateVerdict(Document):
    """What the gate found. `figures` are what it measured, `thresholds` what it allowed; both by name."""

    precision: Precision
    device: str
    """Kind of device: cpu, cuda, xpu."""
    passed: bool
    reasons: tuple[str, ...]
    """Why it did not pass."""
    sha256: str
    """Of the weights."""
    emulated: bool
    """The arithmetic was carried out exactly in wider numbers; its results hold, its speed does not."""
    box: str
    """What was segmented."""
    shape_zyx: tuple[int, int, int]
    figures: dict[str, float]
    thresholds: dict[str, float]


class GateFile(Document):
    """All verdicts beside one model file."""

    format: Literal["petavoxel.gate/1"] = "petavoxel.gate/1"
    verdicts: tuple[GateVerdict, ...] = ()


def gate_path(model: Path) -> Path:
    """Where the verdicts on a model file lie."""
    return model.with_suffix(".gate.json")


def read_verdicts(model: Path) -> tuple[GateVerdict, ...]:
    """All verdicts beside a model file; none where there is no such file.

    Raises:
        ModelError: the file of verdicts is damaged.
    """
    path = gate_path(model)
    try:
        return GateFile.parse(path.read_bytes(), source=str(path)).verdicts
    except FileNotFoundError:
        return ()
    except (TaskError, OSError) as error:
        raise ModelError(
            str(error), remedy=f"remove {path.name} and run `petavoxel model gate` again"
        ) from None


def write_verdict(model: Path, verdict: GateVerdict) -> Path:
    """Add a verdict, in place of an older one on the same precision and device; returns the file.

    Raises:
        ModelError: the file of verdicts is damaged, or the folder cannot be written to.
    """
    others = [
        v for v in read_verdicts(model) if (v.precision, v.device) != (verdict.precision, verdict.device)
    ]
    verdicts = sorted((*others, verdict), key=lambda v: (v.precision, v.device))
    try:
        write_json(gate_path(model), GateFile(verdicts=tuple(verdicts)).to_json())
    except OSError as error:
        raise ModelError(
            f"{gate_path(model)}: cannot be written ({error})",
            remedy="copy the model to a folder of your own and gate it there",
        ) from None
    return gate_path(model)


def find_verdict(model: Path, *, sha256: str, precision: str, device: str) -> GateVerdict | None:
    """The verdict on these weights, if there is one.

    Raises:
        ModelError: the file of verdicts is damaged.
    """
    return next(
        (v for v in read_verdicts(model) if (v.sha256, v.precision, v.device) == (sha256, precision, device)),
        None,
    )
