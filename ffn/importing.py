"""The published google/ffn networks as models, from their variables saved as .npz."""

import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffn.checkpoint import CheckpointError, Model, network_from_tensorflow
from ffn.config import InferenceConfig, Normalisation, Triple


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

    TensorFlow order (kernel z, y, x, in, out). What the file does not hold (field of view, deltas, grey
    values, voxel size) defaults to FIB-25's. Raises CheckpointError naming the file and the array.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: dict[str, NDArray[np.float32]] = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise CheckpointError(
            f"{path}: not an .npz of plain arrays ({error}); export the variables again"
        ) from None
    _check_arrays(path, arrays)
    try:
        network = network_from_tensorflow(arrays, fov_zyx=fov_zyx, deltas_zyx=deltas_zyx)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; export the variables again") from None
    provenance = {"source": "google/ffn convstack_3d", "file": path.name, "licence": "Apache-2.0"}
    if "global_step" in arrays:
        provenance["global_step"] = str(int(arrays["global_step"]))
    return Model(
        network=network,
        normalisation=normalisation or Normalisation(mean=128.0, std=33.0),
        voxel_size_zyx_nm=voxel_size_zyx_nm,
        inference=inference or InferenceConfig(),
        provenance=provenance,
    )


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
