"""Whether a network may run in reduced precision: judged by what it segments, never by its logits.

A logit that moves by .07 can tip a move or a seed, and then an object; or nothing. So one calibration box is
segmented twice, in fp32 and in the reduced precision. The segmentations are compared with each other where
both label (treatment B of `ffn.metrics`: filling would drown the difference) and, where there is one, with
the truth everywhere (D). What one leaves empty is counted by itself, so that nothing is gained by it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, require
from ffn.engine import Precision
from ffn.inference import Progress, Segmentation, segment
from ffn.metrics import Labels, labelled_fraction, variation_of_information


@dataclass(frozen=True, slots=True, kw_only=True)
class GateThresholds:
    """What a reduced precision may change. Entropies in bits; fractions of the fp32 objects or of all voxels.

    One object may always be split or lost, as no box is large enough to tell that from chance; none merged
    that the fraction does not allow. `share`: an object counts as merged or split by parts that hold at
    least this share of it.
    """

    voi_sum: float = 0.15
    truth_voi_rise: float = 0.02
    labelled_drop: float = 0.01
    merged_fraction: float = 0.02
    split_fraction: float = 0.05
    share: float = 0.1

    def __post_init__(self) -> None:
        for name in ("voi_sum", "truth_voi_rise", "labelled_drop", "merged_fraction", "split_fraction"):
            require(getattr(self, name) >= 0, name, "must be >= 0")
        require(0 < self.share <= 0.5, "share", "lies between 0 and one half")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two segmentations of one box. `merged` objects share a segment with another; `split` ones have several.

    `lost` objects have less than half of their voxels labelled. Truth figures are None without a truth.
    """

    voi_split: float
    voi_merge: float
    labelled_reference: float
    labelled_reduced: float
    objects_reference: int
    objects_reduced: int
    merged: int
    split: int
    lost: int
    truth_voi_reference: float | None = None
    truth_voi_reduced: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """A verdict: passed when there are no reasons against it."""

    comparison: Comparison
    reasons: tuple[str, ...]
    reference: Segmentation
    reduced: Segmentation

    @property
    def passed(self) -> bool:
        """Whether nothing speaks against the reduced precision."""
        return not self.reasons


def gate(
    image: NDArray[np.generic],
    *,
    model: Model,
    precision: Precision,
    device: torch.device,
    truth: Labels | None = None,
    thresholds: GateThresholds | None = None,
    config: InferenceConfig | None = None,
    progress: Callable[[Precision, Progress], None] | None = None,
) -> GateResult:
    """Segments `image` (Z, Y, X) in fp32 and in `precision`, and judges.

    `truth` (Z, Y, X): 0 = unknown, does not count. `config` defaults to the model's. Raises InferenceError
    for an image that cannot be segmented.
    """

    def run(numbers: Precision) -> Segmentation:
        tell = None if progress is None else (lambda p: progress(numbers, p))
        return segment(image, model=model, config=config, device=device, precision=numbers, progress=tell)

    thresholds = thresholds or GateThresholds()
    reference, reduced = run("fp32"), run(precision)
    comparison = compare(reference.labels, reduced.labels, truth=truth, share=thresholds.share)
    reasons = judge(comparison, thresholds)
    return GateResult(comparison=comparison, reasons=reasons, reference=reference, reduced=reduced)


def compare(reference: Labels, reduced: Labels, *, truth: Labels | None = None, share: float) -> Comparison:
    """How `reduced` differs from `reference`, both (Z, Y, X) with 0 = none; see `Comparison`."""
    between = variation_of_information(reduced, reference, treatment="labelled")
    merged, split, lost = _events(reference, reduced, share)
    found = Comparison(
        voi_split=between.split,
        voi_merge=between.merge,
        labelled_reference=labelled_fraction(reference),
        labelled_reduced=labelled_fraction(reduced),
        objects_reference=int(np.count_nonzero(np.unique(reference))),
        objects_reduced=int(np.count_nonzero(np.unique(reduced))),
        merged=merged,
        split=split,
        lost=lost,
    )
    if truth is None:
        return found

    def against_truth(labels: Labels) -> float:
        return variation_of_information(labels, truth, treatment="fill", ignore_truth=(0,)).sum

    return replace(
        found, truth_voi_reference=against_truth(reference), truth_voi_reduced=against_truth(reduced)
    )


def judge(comparison: Comparison, thresholds: GateThresholds) -> tuple[str, ...]:
    """What speaks against the reduced precision; nothing when it passes."""
    c, t = comparison, thresholds
    if c.objects_reference == 0:
        return ("fp32 finds no object in the box: it decides nothing",)
    objects = c.objects_reference
    checks: list[tuple[str, float, float, str]] = [
        ("VOI between the two", c.voi_split + c.voi_merge, t.voi_sum, "bits"),
        ("labelled fraction lost", c.labelled_reference - c.labelled_reduced, t.labelled_drop, ""),
        ("objects merged", c.merged, t.merged_fraction * objects, f"of {objects}"),
        ("objects split or lost", c.split + c.lost, max(t.split_fraction * objects, 1), f"of {objects}"),
    ]
    if c.truth_voi_reference is not None and c.truth_voi_reduced is not None:
        rise = c.truth_voi_reduced - c.truth_voi_reference
        checks.append(("VOI against the truth rises by", rise, t.truth_voi_rise, "bits"))
    return tuple(
        f"{name} {value:.4g} {unit}".rstrip() + f", at most {most:.4g} is allowed"
        for name, value, most, unit in checks
        if not value <= most
    )


def _events(reference: Labels, reduced: Labels, share: float) -> tuple[int, int, int]:
    """How many objects of `reference` share a segment of `reduced`, lie in several, or are mostly gone."""
    inside = reference > 0
    objects, obj = np.unique(reference[inside], return_inverse=True)
    segments, segment_of = np.unique(reduced[inside], return_inverse=True)
    overlap = np.zeros((len(objects), len(segments)), np.int64)
    np.add.at(overlap, (obj.ravel(), segment_of.ravel()), 1)
    sizes = overlap.sum(axis=1)
    labelled = segments > 0
    kept = overlap[:, labelled]
    holds = kept >= np.maximum(share * sizes, 1)[:, None]
    shared = holds.sum(axis=0) > 1
    merged = int((holds[:, shared].any(axis=1)).sum())
    split = int((holds.sum(axis=1) > 1).sum())
    lost = int((kept.sum(axis=1) < 0.5 * sizes).sum())
    return merged, split, lost
