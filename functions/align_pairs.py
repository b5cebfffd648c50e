"""Register two sections with each other. A unit is a pair of usable sections; gaps between them are
bridged."""

from __future__ import annotations

import numpy as np

from functions.budget import window_px
from functions.registration.cuts import part_regions
from functions.registration.sections import PairMatch, register_sections
from functions.stages import Stages, device_of
from functions.store.artefacts import load_artefacts
from functions.store.cells import UnitReport
from functions.store.run import Run
from functions.store.transforms import load_layout, open_section, write_arrays


def units(run: Run) -> list[str]:
    """Ids of the pairs, e.g. `z00003-z00004`; none in an aligned stack."""
    return list(run.pairs)


def compute(run: Run, unit: str) -> UnitReport:
    """Register the pair and write `match.npz`: points a_yx, b_yx (N, 2), peak, ratio (N,) and the
    affine (2, 3).

    Raises:
        TaskError: `align.device` is not there.
        VolumeError: a section is not stitched.
    """
    stages, far = Stages(), unit in run.far_pairs
    parameters = run.parameters.align.model_copy(update={"window_px": window_px(run)})
    device = device_of(parameters.device, group="align")
    with stages.stage("open"):
        a, b = (open_section(run, load_layout(run, s.section.id)) for s in run.pairs[unit])
        regions_a, regions_b = (part_regions(load_artefacts(run, s.section.id)) for s in run.pairs[unit])
    with stages.stage("correlation"):
        found = register_sections(
            *a, *b, parameters, regions_a=regions_a, regions_b=regions_b, far=far, device=device
        )
    kept = found.matches if found.good else found.matches.take(np.zeros(len(found.matches), dtype=np.bool_))
    write_arrays(
        run.cell("align_pairs", unit).file("match.npz"),
        {
            "a_yx": kept.a_yx.astype(np.float32),
            "b_yx": kept.b_yx.astype(np.float32),
            "peak": kept.peak.astype(np.float32),
            "ratio": kept.ratio.astype(np.float32),
            "affine": found.affine,
        },
    )
    report = _report(unit, found, parameters.max_residual_px, far=far)
    return report.model_copy(update={"figures": report.figures | stages.figures})


def _report(unit: str, found: PairMatch, limit_px: float, *, far: bool) -> UnitReport:
    """Figures of the pair. A far pair may fail: tissue changes, and it only helps to keep the stack
    straight."""
    turn = float(
        np.rad2deg(np.arctan2(found.affine[1, 0] - found.affine[0, 1], np.trace(found.affine[:, :2])))
    )
    figures = {
        "matches": float(len(found.matches)),
        "patches": float(found.tried),
        "rotation_deg": round(turn, 4),
        "score": found.score,
        "margin": found.margin,
        "coverage": round(len(found.matches) / max(1, found.tried), 4),
        "confidence": round(float(np.median(found.matches.peak)), 4) if len(found.matches) else 0.0,
        "used": float(found.good),
        "far": float(far),
    }
    if found.residual_px_p95 is not None:
        figures["residual_px_p95"] = found.residual_px_p95
    problem = None
    if not found.good:
        problem = ("pair_unmatched", f"{unit}: sections show too little in common; the pair is not used")
    elif found.residual_px_p95 is not None and found.residual_px_p95 > limit_px:
        problem = ("pair_residual", f"{unit}: residual p95 {found.residual_px_p95} px is above {limit_px} px")
    if problem is None or far:
        return UnitReport(figures=figures)
    remedy = "look at both sections (fold, damage, wrong order); raise align.neighbours to bridge one"
    return UnitReport(
        status="look",
        figures=figures,
        problems=({"code": problem[0], "subject": problem[1], "remedy": remedy},),
    )
