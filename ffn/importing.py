"""The published google/ffn networks as models, from their variables saved as .npz."""

import re
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffn.checkpoint import CheckpointError, Model, network_from_tensorflow
from ffn.config import InferenceConfig, Normalisation, Triple

_FLAX_LAYER = re.compile(r"(?:pre_|res(?P<module>\d+))(?P<side>[ab])|output")


def import_google_ffn(
    path: Path,
    *,
    fov_zyx: Triple = (33, 33, 33),
    deltas_zyx: Triple = (8, 8, 8),
    normalisation: Normalisation | None = None,
    voxel_size_zyx_nm: tuple[float, float, float] = (10.0, 10.0, 10.0),
    inference: InferenceConfig | None = None,
) -> Model:
    """The model of a google/ffn `convstack_3d` network: arrays `conv0_a.weights` ... `conv_lom.biases`.

    TensorFlow order (kernel z, y, x, in, out). The parameters of its JAX successor (`ResConvStack` without
    layer normalisation: `pre_a/kernel` ... `output/bias`, flattened with `/`) are taken too. What the file
    does not hold (field of view, deltas, grey values, voxel size) defaults to FIB-25's. Raises
    CheckpointError naming the file and the array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[np.float32]] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: not an .npz of plain arrays ({error}); export the variables again"
        ) from None
    flax = any(name.endswith("pre_a/kernel") for name in arrays)
    if flax:
        arrays = _from_flax(path, arrays)
    _check_arrays(path, arrays)
    try:
        network = network_from_tensorflow(arrays, fov_zyx=fov_zyx, deltas_zyx=deltas_zyx)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; export the variables again") from None
    source = "google/ffn ResConvStack (JAX)" if flax else "google/ffn convstack_3d"
    provenance = {"source": source, "file": path.name, "licence": "Apache-2.0"}
    if "global_step" in arrays:
        provenance["global_step"] = str(int(arrays["global_step"]))
    return Model(
        network=network,
        normalisation=normalisation or Normalisation(mean=128.0, std=33.0),
        voxel_size_zyx_nm=voxel_size_zyx_nm,
        inference=inference or InferenceConfig(),
        provenance=provenance,
    )


def _from_flax(path: Path, arrays: dict[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The same arrays under the names of TensorFlow's; both keep kernels as z, y, x, in, out."""
    renamed: dict[str, NDArray[np.float32]] = {}
    for name, array in arrays.items():
        layer, _, kind = name.removeprefix("params/").rpartition("/")
        if layer.startswith("LayerNorm"):
            raise CheckpointError(
                f"{path}: {name}: the network normalises its layers, which this one does not; "
                "train it with use_layernorm=False, or train anew with `petavoxel model train`"
            )
        found = _FLAX_LAYER.fullmatch(layer)
        if found is None or kind not in ("kernel", "bias"):
            renamed[name] = array
            continue
        if found["side"]:
            tensorflow = f"conv{int(found['module']) + 1 if found['module'] else 0}_{found['side']}"
        else:
            tensorflow = "conv_lom"
        renamed[f"{tensorflow}.{'weights' if kind == 'kernel' else 'biases'}"] = array
    return renamed


def _check_arrays(path: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
    for name, array in arrays.items():
        layer, _, kind = name.partition(".")
        if kind not in ("weights", "biases"):
            continue
        axes = 5 if kind == "weights" else 1
        if array.ndim != axes:
            raise CheckpointError(
                f"{path}: {name}: expected {axes} axes, found shape {array.shape}; "
                f"{layer} is not a 3-d convolution of google/ffn"
            )
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise CheckpointError(f"{path}: {name}: has values that are not finite floats; export it again")
