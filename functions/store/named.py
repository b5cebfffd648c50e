"""Files that a run's parameters name, outside of its work root: its keys know them by their content."""

from __future__ import annotations

from pathlib import Path

from functions.model.errors import ModelError, TaskError
from functions.model.parameters import Parameters

DEMO_MODEL = Path(__file__).parents[1] / "testing" / "demo_network.safetensors"


def model(parameters: Parameters) -> Path:
    """The network's weights.

    Raises:
        ModelError: there is no such file.
    """
    name = parameters.segment.model
    path = DEMO_MODEL if name == "demo" else Path(name)
    if not path.is_file():
        raise ModelError(
            f"segment.model: {path}: no such file",
            remedy="give `demo` or the path of a .safetensors model",
        )
    return path


def lens(parameters: Parameters) -> Path | None:
    """The lens of the camera, where one is given.

    Raises:
        TaskError: there is no such file.
    """
    return _file("stitch.lens", parameters.stitch.lens, "write it with `petavoxel acquisition lens`")


def thresholds(parameters: Parameters) -> Path | None:
    """The thresholds of agglomeration, where a file of them is given.

    Raises:
        TaskError: there is no such file.
    """
    remedy = "write it with `petavoxel model evaluate MODEL --edges VOLUME --truth FILE --to FILE`"
    return _file("agglomerate.thresholds", parameters.agglomerate.thresholds, remedy)


def _file(field: str, name: str | None, remedy: str) -> Path | None:
    if name is not None and not Path(name).is_file():
        raise TaskError(f"{field}: {name}: no such file", remedy=remedy)
    return None if name is None else Path(name)
