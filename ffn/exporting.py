"""Models for other programs.

npz-tensorflow   the variables of google/ffn's `convstack_3d`, as `ffn.importing` takes them; weights only
safetensors      a model file of this package, written anew
torch-export     the network as a program of torch (.pt2) for any batch size: image and logits in, logits out
"""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model, save_model, tensorflow_name, whole_file
from ffn.network import FloodFillingNetwork

Format = Literal["npz-tensorflow", "safetensors", "torch-export"]
MOST_BATCH = 4096


def to_tensorflow(network: FloodFillingNetwork) -> dict[str, NDArray[np.float32]]:
    """The variables of google/ffn's `convstack_3d`: `conv0_a.weights` (z, y, x, in, out) ... in float32.

    The inverse of `ffn.checkpoint.network_from_tensorflow`, to the bit.
    """
    arrays: dict[str, NDArray[np.float32]] = {}
    for name, tensor in network.state_dict().items():
        values: NDArray[np.float32] = tensor.detach().cpu().float().numpy()
        values = values.transpose(2, 3, 4, 1, 0) if values.ndim == 5 else values
        arrays[tensorflow_name(name)] = np.ascontiguousarray(values)
    return arrays


def export_model(model: Model, path: Path, *, to: Format) -> None:
    """Writes the model in another form; the file appears complete or not at all."""
    if to == "safetensors":
        save_model(path, model)
        return
    with whole_file(path) as partial, open(partial, "wb") as file:
        if to == "npz-tensorflow":
            np.savez(file, allow_pickle=False, **_with_step(model))
        else:
            torch.export.save(_program(model.network), file)


def _with_step(model: Model) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = dict(to_tensorflow(model.network))
    if "global_step" in model.provenance and model.provenance["global_step"].isdecimal():
        arrays["global_step"] = np.array(int(model.provenance["global_step"]), np.int64)
    return arrays


def _program(network: FloodFillingNetwork) -> torch.export.ExportedProgram:
    example = torch.zeros(2, 2, *network.config.fov_zyx)
    batch = torch.export.Dim("batch", min=1, max=MOST_BATCH)
    return torch.export.export(network.eval(), (example,), dynamic_shapes=({0: batch},))
