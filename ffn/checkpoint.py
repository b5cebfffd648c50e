"""A trained model in one safetensors file: weights, and in the header everything needed to use them.

The header's metadata holds, as JSON, the schema, network, normalisation, voxel size, inference settings,
provenance and the SHA-256 of the tensors. safetensors cannot hold code: a foreign file is safe to open.
This is the only module of `ffn` that touches files.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ffn.config import ConfigError, InferenceConfig, NetworkConfig, Normalisation, from_json, to_json
from ffn.network import FloodFillingNetwork

SCHEMA = "petavoxel.ffn/1"
METADATA = "model"  # the only key: safetensors writes several in random order


class CheckpointError(ValueError):
    """The file is not a model that can be used; the message names the file and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A network with what it was made for: grey values, voxel size, and the settings it is run with."""

    network: FloodFillingNetwork
    normalisation: Normalisation
    voxel_size_zyx_nm: tuple[float, float, float]
    inference: InferenceConfig
    provenance: Mapping[str, str] = field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Identifies the weights (names, shapes and values), whatever file they came in."""
        return tensors_sha256(self.network.state_dict())


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    schema: str
    network: NetworkConfig
    normalisation: Normalisation
    voxel_size_zyx_nm: tuple[float, float, float]
    inference: InferenceConfig
    sha256: str


def tensors_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and little-endian float32 values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        values = tensors[name].detach().cpu().contiguous().numpy().astype("<f4")
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def save_model(path: Path, model: Model) -> None:
    """Writes the model; the file appears complete or not at all."""
    tensors = {k: v.detach().cpu().float().contiguous() for k, v in model.network.state_dict().items()}
    header = _Header(
        schema=SCHEMA,
        network=model.network.config,
        normalisation=model.normalisation,
        voxel_size_zyx_nm=model.voxel_size_zyx_nm,
        inference=model.inference,
        sha256=tensors_sha256(tensors),
    )
    about = json.dumps({**to_json(header), "provenance": dict(model.provenance)}, sort_keys=True)
    with whole_file(path) as partial:
        save_file(tensors, partial, metadata={METADATA: about})


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write that becomes `path` when the block ends without error, and is gone otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
        Path(name).chmod(0o644)
        os.replace(name, path)
    finally:
        Path(name).unlink(missing_ok=True)


def load_model(path: Path) -> Model:
    """Reads a model written by `save_model`, checked: schema, fields, names, shapes, hash of the weights.

    Raises CheckpointError for anything else, a pickle included.
    """
    header, provenance, tensors = _read(path)
    network = FloodFillingNetwork(header.network)
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise CheckpointError(
                f"{path}: tensor {name}: expected shape {expected.get(name)}, found {found.get(name)}; "
                "the weights do not belong to the network in the header"
            )
    if tensors_sha256(tensors) != header.sha256:
        raise CheckpointError(f"{path}: sha256: the weights differ from the header's; copy the file again")
    network.load_state_dict(tensors)
    network.eval()
    return Model(
        network=network,
        normalisation=header.normalisation,
        voxel_size_zyx_nm=header.voxel_size_zyx_nm,
        inference=header.inference,
        provenance=provenance,
    )


def _read(path: Path) -> tuple[_Header, dict[str, str], dict[str, torch.Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; give the path of a .safetensors model")
    try:
        with safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(
            f"{path}: not a safetensors file ({error}); convert it with `petavoxel model import`"
        ) from None
    try:
        fields: Any = json.loads(metadata.get(METADATA, "null"))
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path}: {METADATA}: not JSON ({error}); not a Petavoxel model") from None
    if not isinstance(fields, dict) or fields.get("schema") != SCHEMA:
        raise CheckpointError(f"{path}: schema: expected {SCHEMA!r}; not a Petavoxel model, import it first")
    provenance = fields.pop("provenance", {})
    if not isinstance(provenance, dict) or not all(isinstance(v, str) for v in provenance.values()):
        raise CheckpointError(f"{path}: provenance: expected an object of strings")
    try:
        return from_json(_Header, fields), provenance, tensors
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def network_from_tensorflow(
    arrays: Mapping[str, NDArray[np.float32]],
    *,
    fov_zyx: tuple[int, int, int],
    deltas_zyx: tuple[int, int, int],
) -> FloodFillingNetwork:
    """The network of google/ffn's `convstack_3d` variables, TensorFlow order (kernel z y x, in, out).

    Names are `conv{i}_a.weights`, `conv{i}_b.biases`, ..., `conv_lom.weights`; others are left out.
    Raises CheckpointError when one is missing or has another shape.
    """
    modules = 0
    while f"conv{modules}_a.weights" in arrays:
        modules += 1
    if modules == 0 or "conv_lom.weights" not in arrays:
        raise CheckpointError("arrays: no conv0_a.weights or conv_lom.weights; not a google/ffn network")
    features = int(arrays["conv_lom.weights"].shape[3])
    config = NetworkConfig(modules=modules, features=features, fov_zyx=fov_zyx, deltas_zyx=deltas_zyx)
    network = FloodFillingNetwork(config)
    state: dict[str, torch.Tensor] = {}
    for name, expected in network.state_dict().items():
        source = tensorflow_name(name)
        if source not in arrays:
            raise CheckpointError(f"arrays: {source} is missing")
        values = np.asarray(arrays[source], np.float32)
        values = values.transpose(4, 3, 0, 1, 2) if values.ndim == 5 else values
        if values.shape != tuple(expected.shape):
            raise CheckpointError(f"arrays: {source}: expected {tuple(expected.shape)}, found {values.shape}")
        state[name] = torch.from_numpy(np.ascontiguousarray(values))
    network.load_state_dict(state)
    network.eval()
    return network


def tensorflow_name(name: str) -> str:
    """`residual.0.conv_a.weight` -> `conv1_a.weights`; `conv0_a.bias` -> `conv0_a.biases`."""
    *path, kind = name.split(".")
    layer = f"conv{int(path[1]) + 1}_{path[2][-1]}" if path[0] == "residual" else path[0]
    return f"{layer}.{'weights' if kind == 'weight' else 'biases'}"
