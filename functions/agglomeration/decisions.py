"""From the evidence of resegmentations to merged segments, each decision with its reason.

    evidence of a pair at a point -> verdict and scores -> strongest first, guarded -> components

The default thresholds are the conservative rule of google/ffn's manual ("Scoring"): few false mergers first,
since a merger costs a proofreader more than a split. FlyEM scored the edges of its agglomerations by the same
numbers. They want calibration on each data set, says the manual. The guards, and the rule that one of the two
objects is enough, are ours.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ffn.config import require
from ffn.evidence import PairEvidence
from functions.agglomeration.settling import NOBODY, Refusal, Settling

Ids = NDArray[np.uint64]
Integers = NDArray[np.int64]

Verdict = Literal[
    "merge", "not_flooded", "few_voxels", "low_recovery", "low_iou", "deleted", "foreign", "unknown", "bridge"
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionParameters:
    """When two segments are called one. Fractions; voxels.

    From google/ffn's manual: each object must recover more than `min_recovered` of both segments, the two
    agree by more than `min_iou`, and one of them at least take back less than `max_deletion_fraction`.
    With `seeds` "either" the better of the two objects is enough, and nothing has to agree: a network that
    splits a neurite from one side may well pass from the other.

    Guards: `min_voxels` of both segments in the analysis box, for fractions of a few voxels say nothing; at
    most `max_foreign_fraction` of an object in other segments, for a leaking object recovers everything; a
    segment below `min_bridge_voxels` in the volume joins one partner only, its best: two large segments do
    not become one by way of a crumb between them.
    """

    seeds: Literal["both", "either"] = "both"
    min_recovered: float = 0.6
    min_iou: float = 0.8
    max_deletion_fraction: float = 0.02
    min_voxels: int = 100
    max_foreign_fraction: float = 0.2
    min_bridge_voxels: int = 1000

    def __post_init__(self) -> None:
        for name in ("min_recovered", "min_iou", "max_foreign_fraction"):
            require(0 <= getattr(self, name) <= 1, name, "is a fraction between 0 and 1")
        require(self.max_deletion_fraction >= 0, "max_deletion_fraction", "must be >= 0")
        require(self.min_voxels >= 0, "min_voxels", "must be >= 0")
        require(self.min_bridge_voxels >= 0, "min_bridge_voxels", "must be >= 0")

    def at_score(self, score: float) -> DecisionParameters:
        """The same with another threshold for `Decision.score`."""
        return replace(self, min_iou=score) if self.seeds == "both" else replace(self, min_recovered=score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What was decided of one pair at one point, and why.

    `agreement`: the Jaccard index of the two objects. `speculative`: the better of the two seeds' worse
    recoveries (FlyEM showed a proofreader those from .1 up). `score`: the one of both that the rule asks for
    by `DecisionParameters.seeds`; merges are taken in its order.
    """

    evidence: PairEvidence
    verdict: Verdict
    reason: str
    score: float
    agreement: float
    speculative: float

    @property
    def pair(self) -> tuple[int, int]:
        return self.evidence.first, self.evidence.second


@dataclass(frozen=True, slots=True, kw_only=True)
class Agglomeration:
    """Which segments are one: for each of `segments` (ascending) the lowest id of its object.

    `decisions` in the order in which they were taken, merges that a guard refused included.
    """

    segments: Ids
    representative: Ids
    decisions: tuple[Decision, ...]

    @property
    def objects(self) -> int:
        """How many objects the segments are."""
        return int(np.unique(self.representative).size)

    def apply(self, labels: NDArray[np.unsignedinteger]) -> NDArray[np.uint64]:
        """Labels with every segment replaced by its object; 0 stays 0.

        Raises:
            ValueError: a label is not among the segments.
        """
        known = np.concatenate([np.zeros(1, np.uint64), self.segments])
        objects = np.concatenate([np.zeros(1, np.uint64), self.representative])
        values = labels.astype(np.uint64)
        where = np.minimum(np.searchsorted(known, values), known.size - 1)
        if not np.array_equal(known[where], values):
            raise ValueError("labels: hold segments that were not agglomerated; give those of the decisions")
        return objects[where]


def decide(evidence: PairEvidence, *, parameters: DecisionParameters | None = None) -> Decision:
    """The verdict on one pair by itself; the reason names the number that decided."""
    settings = parameters or DecisionParameters()
    verdict, reason = _judge(evidence, settings)
    speculative = speculative_score(evidence)
    return Decision(
        evidence=evidence,
        verdict=verdict,
        reason=reason,
        score=evidence.iou if settings.seeds == "both" else speculative,
        agreement=evidence.iou,
        speculative=speculative,
    )


def speculative_score(evidence: PairEvidence) -> float:
    """The better of the two objects' worse recoveries; 0 when nothing was flooded."""
    sides = [s for s in (evidence.from_first, evidence.from_second) if s is not None]
    return max((min(s.recovered_first, s.recovered_second) for s in sides), default=0.0)


def agglomerate(
    evidence: Iterable[PairEvidence],
    *,
    segments: Ids,
    voxels: Integers,
    parameters: DecisionParameters | None = None,
) -> Agglomeration:
    """Merges what the evidence says is one, strongest first; the order of the evidence does not matter.

    `segments` and their `voxels`: all segments there are. Evidence on any other, dropped since, is refused
    ("unknown"). Of several points of one pair one merge is enough.

    Raises:
        ValueError: `segments` holds an id twice or 0, or `voxels` has another length.
    """
    settings = parameters or DecisionParameters()
    known, sizes = _sorted(segments, voxels)
    places = {segment: place for place, segment in enumerate(known.tolist())}
    settling = Settling(sizes, min_bridge_voxels=settings.min_bridge_voxels)
    decisions = []
    for decision in sorted((decide(e, parameters=settings) for e in evidence), key=_order):
        if decision.verdict == "merge":
            first, second = (places.get(segment, NOBODY) for segment in decision.pair)
            refusal = settling.take(first, second)
            if refusal is not None:
                decision = _refused(decision, refusal, sizes, (first, second))
        decisions.append(decision)
    objects = known[settling.objects()]
    return Agglomeration(segments=known, representative=objects, decisions=tuple(decisions))


def tally(decisions: Sequence[Decision]) -> Mapping[Verdict, int]:
    """How often each verdict was given, all verdicts included."""
    counts = Counter(d.verdict for d in decisions)
    return {verdict: counts[verdict] for verdict in VERDICTS}


def _judge(e: PairEvidence, settings: DecisionParameters) -> tuple[Verdict, str]:
    fewest = min(e.voxels_first, e.voxels_second)
    if fewest < settings.min_voxels:
        return "few_voxels", f"{fewest} voxels near the point, must be at least {settings.min_voxels}"
    sides = [s for s in (e.from_first, e.from_second) if s is not None]
    worst = [min(s.recovered_first, s.recovered_second) for s in sides]
    recovered = (min if settings.seeds == "both" else max)(worst, default=1.0)
    if not recovered > settings.min_recovered:
        return "low_recovery", f"recovered {recovered:.3f}, must be above {settings.min_recovered:g}"
    if not sides or (settings.seeds == "both" and len(sides) < 2):
        missing = e.first if e.from_first is None else e.second
        return "not_flooded", f"nothing was flooded from {missing}"
    if settings.seeds == "both" and not e.iou > settings.min_iou:
        return "low_iou", f"Jaccard index {e.iou:.3f}, must be above {settings.min_iou:g}"
    deleted = min(s.deletion_fraction for s in sides)
    if not deleted < settings.max_deletion_fraction:
        return "deleted", f"took back {deleted:.3f}, must be below {settings.max_deletion_fraction:g}"
    foreign = max(s.foreign_fraction for s in sides)
    if foreign > settings.max_foreign_fraction:
        return (
            "foreign",
            f"{foreign:.3f} in other segments, must be at most {settings.max_foreign_fraction:g}",
        )
    return "merge", f"Jaccard index {e.iou:.3f}, recovered {recovered:.3f}, took back {deleted:.3f}"


def _order(d: Decision) -> tuple[float, ...]:
    """Merges first, the strongest first; what is equal by ids and place."""
    return d.verdict != "merge", -d.score, -d.speculative, *d.pair, *d.evidence.point_zyx


def _refused(d: Decision, refusal: Refusal, sizes: Integers, places: tuple[int, int]) -> Decision:
    """A merge that a guard refused, and why."""
    if refusal.verdict == "unknown":
        reason = f"segment {d.pair[refusal.which]} is not there any more"
    else:
        size = int(sizes[places[refusal.which]])
        reason = f"would bridge by a segment of {size} voxels that has joined a better partner"
    return replace(d, verdict=refusal.verdict, reason=reason)


def _sorted(segments: Ids, voxels: Integers) -> tuple[Ids, Integers]:
    if segments.ndim != 1 or segments.shape != voxels.shape:
        raise ValueError(f"voxels: shape {voxels.shape} must equal that of segments, {segments.shape}")
    order = np.argsort(segments)
    known, sizes = segments[order].astype(np.uint64), voxels[order]
    if known.size and (known[0] == 0 or (np.diff(known) == 0).any()):
        raise ValueError("segments: hold 0 or an id twice; give each segment once")
    return known, sizes
