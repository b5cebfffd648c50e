"""What the registration benchmark makes of its runs: flat figures, averages over seeds, ratios, and bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

STITCH = ("S1", "S2")
ALIGN = ("A2", "A3", "R1")
DRIFTING = ("A3",)
"""Sets of real slices whose tissue moves from one to the next, and that their maker takes from one file."""
SCORES = ("seam", "seam_resin", "nbr", "nbr_plain", "nbr_artefact", "global_rigid", "global_affine")
STATISTICS = ("mean", "median", "p95", "max")
RATIOS = (
    "seam_mean", "seam_p95", "nbr_mean", "nbr_plain_mean", "nbr_artefact_mean", "global_rigid_mean",
    "nbr_mean_beyond_raw_drift", "seconds", "cpu_seconds", "peak_mb",
)  # fmt: skip
Figures = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """At most `limit` is wanted of the figure `name`; `value`, `met` are None where it was not measured."""

    name: str
    limit: float
    value: float | None = None
    met: bool | None = None


BARS: tuple[tuple[str, float], ...] = (
    ("ours.S1.seam_p95", 0.25),
    ("ours.S2.seam_p95", 0.35),
    *((f"ours.{name}.wrong", 0.0) for name in (*STITCH, "A3", "R1")),
    ("ours.R1.nbr_plain_mean", 0.5),
    *((f"ratio.{name}.nbr_mean", 0.6) for name in ("R1", "A3")),
    *((f"ours.{name}.nbr_artefact_mean", 1.3) for name in ("R1", "A3")),
    *((f"ours_masked.{name}.nbr_artefact_mean", 1.0) for name in ("R1", "A3")),
    *((f"ratio.{name}.global_rigid_mean", 1.0) for name in ("R1", "A3")),
    *((f"ratio.{name}.seconds", 0.5) for name in (*STITCH, "A3", "R1")),
    *((f"ours.{name}.seconds_per_mpx", 4.0) for name in ("A3", "R1")),
    *((f"ratio.{name}.cpu_seconds", 0.5) for name in (*STITCH, "A3", "R1")),
    *((f"ours.{name}.cpu_seconds_per_mpx", 4.0) for name in ("A3", "R1")),
)
"""Every bar is an upper limit; `ratio` is ours / FEABAS, seconds are from files on disk to files on disk.

With one thread on an idle machine CPU seconds say what seconds say; on a busy one they alone say something.
"""


def flatten(score: Mapping[str, Any], run: Mapping[str, Any], megapixels: float) -> Figures:
    """One run's figures: the scorer's statistics, what went wrong, seconds, memory."""
    out: Figures = {}
    for name in SCORES:
        found = score.get(name, {})
        out |= {f"{name}_{s}": float(found[s]) for s in STATISTICS if s in found}
    out |= {name: float(value) for name, value in score.get("beyond", {}).items()}
    out |= {f"raw_drift_{name}": float(value) for name, value in score.get("raw_drift", {}).items()}
    out["missing"] = float(score["missing"])
    out["refused"] = float(len(run["refused"]))
    out["pairs_kept"] = float(score["pairs_kept"])
    out["wrong"] = float(len(score["wrong"]))
    out["seconds"] = float(run["total"])
    out |= {f"seconds_{stage}": float(s) for stage, s in run["seconds"].items()}
    out |= {f"cpu_{stage}": float(s) for stage, s in run["cpu"].items()}
    out["cpu_seconds"] = float(run["cpu_seconds"])
    out["seconds_per_mpx"] = run["total"] / megapixels
    out["cpu_seconds_per_mpx"] = run["cpu_seconds"] / megapixels
    out["peak_mb"] = float(run["peak_mb"])
    return out


def named(system: str, name: str, figures: Figures) -> Figures:
    """One run's figures by their names in the document; what is of the set itself names no system."""
    return {
        f"{name}.{key}" if key.startswith("raw_drift_") else f"{system}.{name}.{key}": value
        for key, value in figures.items()
    }


def average(seeds: Sequence[Figures]) -> Figures:
    """The mean of each figure over the seeds that have it."""
    names = {name: None for figures in seeds for name in figures}
    out = {}
    for name in names:
        values = [figures[name] for figures in seeds if name in figures]
        out[name] = round(sum(values) / len(values), 4)
    return out


def with_ratios(figures: Figures, peer: str) -> Figures:
    """The figures and, for every set, ours divided by the peer's."""
    out = dict(figures)
    for key, value in figures.items():
        system, _, rest = key.partition(".")
        name, _, figure = rest.partition(".")
        theirs = figures.get(f"{peer}.{name}.{figure}")
        if system == "ours" and figure in RATIOS and theirs:
            out[f"ratio.{name}.{figure}"] = round(value / theirs, 4)
    return out


def bars(figures: Figures) -> list[dict[str, Any]]:
    """Every bar with the figure that it is about."""
    out = []
    for name, limit in BARS:
        value = figures.get(name)
        met = None if value is None else value <= limit
        out.append(asdict(Bar(name=name, limit=limit, value=value, met=met)))
    return out
