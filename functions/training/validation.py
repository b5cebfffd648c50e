"""Judging a network while it learns: held-out volumes are segmented as in a run, and compared with the truth.

Letters as in `functions.evaluation`: D fills unlabelled voxels with the nearest segment, A keeps 0 as a
segment, B counts only voxels that both label. D's sum decides which network is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import ConfigError, InferenceConfig, fast
from ffn.inference import segment
from ffn.network import FloodFillingNetwork
from ffn.recipe import TrainingRecipe
from functions.evaluation import Evaluation, evaluate
from functions.training.recipe import ValidationConfig
from functions.training.sampling import upsample_labels
from functions.training.volumes import OpenVolume

CPU = torch.device("cpu")


class Validation:
    """Called with a network, returns its figures on the held-out volumes; see `figures`."""

    def __init__(
        self,
        volumes: Sequence[OpenVolume],
        *,
        config: ValidationConfig,
        training: TrainingRecipe,
        device: torch.device = CPU,
    ) -> None:
        self._training, self._config, self._device = training, config, device
        self._held = [_Held(volume, training) for volume in volumes]

    def __call__(self, network: FloodFillingNetwork) -> dict[str, float]:
        started = time.monotonic()
        model = model_of(network, self._training)
        judged: list[Evaluation] = []
        fovs = 0
        for held in self._held:
            result = segment(
                held.image,
                model=model,
                config=self._inference(),
                device=self._device,
                max_fovs=self._config.max_fovs,
            )
            fovs += result.counters.fovs
            judged.append(held.judge(result.labels))
        return figures(judged, fovs=fovs, seconds=time.monotonic() - started)

    def _inference(self) -> InferenceConfig:
        settings = self._training.inference
        if not self._config.fast:
            return settings
        return fast(settings, self._training.network)


def model_of(
    network: FloodFillingNetwork, training: TrainingRecipe, *, provenance: Mapping[str, str] | None = None
) -> Model:
    """The network as a model with the recipe's settings."""
    return Model(
        network=network,
        normalisation=training.normalisation,
        voxel_size_zyx_nm=training.voxel_size_zyx_nm,
        inference=training.inference,
        provenance=provenance or {},
    )


def figures(judged: Sequence[Evaluation], *, fovs: int, seconds: float) -> dict[str, float]:
    """Means over the volumes, weighted by voxels: VOI in bits, with the treatment of 0 in the name.

    `voi_sum` = `voi_split` + `voi_merge` is D. Figures that no voxel counts for are left out.
    """
    weights = np.array([e.voxels for e in judged], float)

    def mean(values: list[float]) -> float:
        return round(float(np.average(values, weights=weights)), 5)

    found = {
        "voi_sum": mean([e.voi_sum_fill for e in judged]),
        "voi_split": mean([e.voi_split_fill for e in judged]),
        "voi_merge": mean([e.voi_merge_fill for e in judged]),
        "voi_split_keep": mean([e.voi_split_keep for e in judged]),
        "voi_merge_keep": mean([e.voi_merge_keep for e in judged]),
        "voi_split_labelled": mean([e.voi_split_labelled for e in judged]),
        "voi_merge_labelled": mean([e.voi_merge_labelled for e in judged]),
        "rand_error": mean([e.rand_error_fill for e in judged]),
        "labelled": mean([e.labelled_fraction for e in judged]),
        "objects": sum(e.objects for e in judged),
        "true_objects": sum(e.true_objects for e in judged),
        "validation_fovs": fovs,
        "validation_seconds": round(seconds, 2),
    }
    return {name: value for name, value in found.items() if math.isfinite(value)}


class _Held:
    """A held-out volume in memory: what is segmented, and what it is compared with."""

    def __init__(self, volume: OpenVolume, training: TrainingRecipe) -> None:
        image = volume.training.image
        fov = training.network.fov_zyx
        if any(n < f for n, f in zip(image.shape, fov, strict=True)):
            raise ConfigError(
                f"validation.volumes: {volume.name}: {image.shape} is smaller than the field of view {fov}; "
                "give a larger box"
            )
        self.image = image[:, :, :]
        self._factor = volume.downsample_zyx
        self._truth, self._background_counts = volume.truth, True
        if volume.unknown is not None:  # evaluate() leaves out 0: the unknown takes its place
            background = volume.truth == 0
            self._truth = np.where(background, np.uint32(volume.unknown), volume.truth)
            self._truth[volume.truth == volume.unknown] = 0
            self._background_counts = False
        z, y, x = (n / f for n, f in zip(training.voxel_size_zyx_nm, self._factor, strict=True))
        self._voxel_size_zyx_nm = (z, y, x)

    def judge(self, labels: NDArray[np.uint32]) -> Evaluation:
        return evaluate(
            upsample_labels(labels, self._factor),
            self._truth,
            voxel_size_zyx_nm=self._voxel_size_zyx_nm,
            background_counts=self._background_counts,
            min_skeleton_voxels=None,
        )
