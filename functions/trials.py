"""Trying a network on one box that is held in memory: how good it is, and whether it may run in fewer bits.

evaluate_model   box -> labels -> figures against the truth, and what they cost
gate_model       box -> labels in fp32, labels in the reduced precision -> verdict beside the weights
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.gate import Comparison, GateThresholds, gate
from ffn.inference import Counters, InferenceError, Progress, segment
from ffn.quantise import EMULATED
from functions.evaluation import Evaluation, evaluate
from functions.model.errors import MemoryBudgetError, ModelError, VolumeError
from functions.model.geometry import ZYX, Box
from functions.model.parameters import Precision, SegmentParameters
from functions.needs import FLOOD_BYTES, FLOOD_MIB, MIB
from functions.networks import choose, config_of, load
from functions.store.label_files import read_image, read_labels
from functions.store.verdicts import GateVerdict, write_verdict

Grey = NDArray[np.integer]
Labels = NDArray[np.integer]

LABEL_BYTES = 4
GATE_PHANTOM_SEED = 301
GATE_SHAPE_ZYX = (48, 160, 160)
"""The calibration box when none is given: tissue that no network was trained on."""
PHANTOM_FACTOR = 1.5
"""How far a network's voxel size may be from the phantom's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """A box of voxels to try a network on; `truth` has 0 where nothing is known or nothing is."""

    name: str
    image: Grey
    truth: Labels | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEvaluation:
    """A network's figures on a box, and what they cost."""

    evaluation: Evaluation
    counters: Counters
    device: str
    precision: str
    voxels: int

    def to_json(self) -> dict[str, Any]:
        """All of it, flat figures in groups."""
        seconds = self.counters.seconds_network + self.counters.seconds_host
        return {
            "device": self.device,
            "precision": self.precision,
            "seconds": round(seconds, 3),
            "voxels_per_second": round(self.voxels / seconds, 1) if seconds else 0.0,
            "counters": {k: round(v, 3) for k, v in asdict(self.counters).items()},
            "figures": self.evaluation.to_json(),
        }


def read_trial(image: Path, truth: Path | None, *, box: Box | None = None) -> Trial:
    """A box of the volumes in two files; one .npz may hold both.

    Raises:
        VolumeError: not such files, the box leaves them, or they differ in shape.
    """
    grey = read_image(image, box=box)
    labels = None if truth is None else read_labels(truth, box=box)
    if labels is not None and labels.shape != grey.shape:
        raise VolumeError(
            f"{truth}: shape {labels.shape}, {image} has {grey.shape}",
            remedy="give volumes of the same voxels, or a --box that lies in both",
        )
    where = "" if box is None else f" {box.offset_zyx} to {box.end_zyx}"
    return Trial(name=f"{image.name}{where}", image=grey, truth=labels)


def phantom_trial(model: Model) -> Trial:
    """Synthetic tissue as a pipeline would hand it on, for a network of about its voxel size.

    Raises:
        ModelError: the network was made for other voxels.
    """
    from functions.testing.phantom import make_phantom
    from functions.testing.phantom_render import PhantomConfig
    from functions.testing.phantom_training import PhantomVolumes, as_rendered

    config = PhantomConfig(seed=GATE_PHANTOM_SEED, shape_zyx=GATE_SHAPE_ZYX)
    sizes = zip(model.voxel_size_zyx_nm, config.voxel_size_zyx_nm, strict=True)
    if max(max(a / b, b / a) for a, b in sizes) > PHANTOM_FACTOR:
        raise ModelError(
            f"the network is made for voxels of {model.voxel_size_zyx_nm} nm, the phantom has "
            f"{config.voxel_size_zyx_nm} nm",
            remedy="give a box of your own tissue: --image FILE, and --truth FILE if there is one",
        )
    volume = as_rendered(make_phantom(config), PhantomVolumes(seeds=(config.seed,)))
    return Trial(
        name=f"phantom {config.seed}",
        image=np.asarray(volume.image[:, :, :], np.uint8),
        truth=np.asarray(volume.labels[:, :, :]),
    )


def evaluate_model(
    path: Path,
    trial: Trial,
    *,
    parameters: SegmentParameters | None = None,
    voxel_size_zyx_nm: tuple[float, float, float] | None = None,
    rim_zyx_px: ZYX = (0, 0, 0),
    background_counts: bool = True,
    room_mib: float | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ModelEvaluation:
    """Segment a box alone and compare it with its truth; in any precision, since nothing is kept of it.

    Args:
        parameters: device, precision, mode and what else changes the model's settings; not its path.
        voxel_size_zyx_nm: of the box; by default the model's.
        room_mib: memory beside interpreter and libraries: a box that cannot be flooded in it is refused, and
            labels are compared slab by slab.

    Raises:
        ModelError: not a model, or no such device.
        MemoryBudgetError: the box does not fit.
        VolumeError: the box has no truth, cannot be segmented, or the rim leaves nothing of it.
    """
    if trial.truth is None:
        raise VolumeError(f"{trial.name}: has no truth", remedy="give the true labels: --truth FILE")
    flooded_mib = FLOOD_MIB + FLOOD_BYTES * trial.image.size / MIB
    if room_mib is not None and flooded_mib > room_mib:
        raise MemoryBudgetError(
            f"{trial.name}: flooding {trial.image.size:,} voxels takes {flooded_mib:.0f} MiB, there are"
            f" {room_mib:.0f}",
            remedy="give more (--memory-gib), or a smaller --box",
        )
    model, p = load(path), parameters or SegmentParameters()
    device = choose(p.device)
    held_mib = (trial.image.nbytes + trial.truth.nbytes + LABEL_BYTES * trial.image.size) / MIB
    try:
        found = segment(
            trial.image,
            model=model,
            config=config_of(model, p),
            device=device,
            precision=p.precision,
            progress=progress,
        )
    except InferenceError as error:
        raise VolumeError(f"{trial.name}: {error}", remedy="give another box") from None
    return ModelEvaluation(
        evaluation=evaluate(
            found.labels,
            trial.truth,
            voxel_size_zyx_nm=voxel_size_zyx_nm or model.voxel_size_zyx_nm,
            rim_zyx_px=rim_zyx_px,
            background_counts=background_counts,
            room_mib=None if room_mib is None else room_mib - held_mib,
        ),
        counters=found.counters,
        device=device.type,
        precision=p.precision,
        voxels=trial.image.size,
    )


def gate_model(
    path: Path,
    *,
    precision: Precision,
    device: str = "auto",
    trial: Trial | None = None,
    thresholds: GateThresholds | None = None,
    progress: Callable[[Precision, Progress], None] | None = None,
) -> GateVerdict:
    """Judge a precision by a box (by default the phantom) and write the verdict beside the weights.

    Raises:
        ModelError: not a model, no such device, fp32 asked for, no box for it, or nowhere to write to.
        VolumeError: the box cannot be segmented.
    """
    if precision == "fp32":
        raise ModelError("fp32 is what the others are compared with", remedy="gate bf16, fp16 or int8")
    model, chosen = load(path), choose(device)
    thresholds = thresholds or GateThresholds()
    trial = trial or phantom_trial(model)
    try:
        result = gate(
            trial.image,
            model=model,
            precision=precision,
            device=chosen,
            truth=trial.truth,
            thresholds=thresholds,
            progress=progress,
        )
    except InferenceError as error:
        raise VolumeError(f"{trial.name}: {error}", remedy="give another box") from None
    z, y, x = trial.image.shape
    verdict = GateVerdict(
        precision=precision,
        device=chosen.type,
        passed=result.passed,
        reasons=result.reasons,
        sha256=model.sha256,
        emulated=precision == "int8" and EMULATED,
        box=trial.name,
        shape_zyx=(z, y, x),
        figures=_figures(result.comparison, result.reference.counters, result.reduced.counters),
        thresholds=asdict(thresholds),
    )
    write_verdict(path, verdict)
    return verdict


def _figures(comparison: Comparison, reference: Counters, reduced: Counters) -> dict[str, float]:
    """What was measured, by name; what is not known or not a number is left out."""
    values: dict[str, float | None] = {
        **asdict(comparison),
        "fovs_reference": reference.fovs,
        "fovs_reduced": reduced.fovs,
        "seconds_network_reference": reference.seconds_network,
        "seconds_network_reduced": reduced.seconds_network,
    }
    return {k: round(float(v), 6) for k, v in values.items() if v is not None and np.isfinite(v)}
