"""The gate behind stitching and alignment: pass, look or fail, from figures and stated limits.

An expected failure is data: the verdict `fail` becomes the status `failed` of align_solve, which the flow's
Choice reads; nothing is raised, and what was computed stays. Evidence knows no limit and is kept, so that
judging again with other limits takes a second.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functions.evidence import measure_pairs, measure_seams
from functions.model.gate import GateDocument, Level, Reason, SectionVerdict
from functions.model.transform import SectionLayout, SectionTransform
from functions.registration.evidence import Windows, coverage
from functions.registration.judging import (
    PairFigures,
    SeamFigures,
    SectionFigures,
    judge_section,
    judge_stack,
)
from functions.store.cells import Mark
from functions.store.evidence import gate_path, load_gate, load_pair, load_seams, save_gate
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform, read_arrays
from functions.tasks import Problem, StepResult

Points = NDArray[np.float64]
STATUS: dict[Level, Literal["ok", "look", "failed"]] = {"pass": "ok", "look": "look", "fail": "failed"}
REMEDIES: dict[Level, str] = {
    "pass": "",
    "look": "look at it in the report",
    "fail": "leave it out, or loosen gate.*, and rerun; or rerun with --on-gate-fail continue",
}
TOLD, MOST_TOLD, SUBJECT_CHARACTERS = ("sections_failed", "sections_look"), 2, 200
"""An answer stays under 1500 bytes, for the flow's state; file and report have everything."""
ALONG_PX = 0.75
"""A window is held by a match that lies within this share of the windows' distance."""


def after_stitch(run: Run, mark: Mark) -> Mark:
    """The mark of a stitched section with the verdict on its seams, for an answer; the kept one stays.

    One section cannot stop a run: the whole is judged behind align_solve.
    """
    if run.manifest.acquisition.aligned:
        return mark
    verdict = stitch_verdict(run, mark.unit)
    told = tuple({k: str(v) for k, v in _problem(r).to_json().items()} for r in verdict.reasons)
    if not told:
        return mark
    return mark.model_copy(update={"status": "look", "problems": (*told, *mark.problems)})


def stitch_verdict(run: Run, section_id: str) -> SectionVerdict:
    """The verdict on a stitched section by itself; its seams are measured if that was not done.

    Raises:
        AcquisitionError, VolumeError: a tile or the layout cannot be read.
    """
    figures = _section_figures(run, load_layout(run, section_id), placed="stitched")
    return judge_section(figures, run.parameters.gate)


def after_solve(run: Run, result: StepResult) -> StepResult:
    """The answer of align_solve with the verdict on the whole stack; the gate's reasons come first."""
    document = judge(run)
    told = tuple(_problem(reason) for reason in document.every_reason)
    order = ("ok", "look", "failed")
    counts = {name: document.figures[name] for name in TOLD if name in document.figures}
    return result.model_copy(
        update={
            "status": max(result.status, STATUS[document.verdict], key=order.index),
            "figures": {**result.figures, **counts},
            "paths": {**result.paths, "gate": str(gate_path(run))},
            "problems": (*told, *result.problems)[:MOST_TOLD],
            "problem_count": len(told) + result.problem_count,
        }
    )


def given(run: Run) -> GateDocument:
    """The verdict on a solved stack: as written down, else given now.

    Raises:
        AcquisitionError, VolumeError: as `judge`.
    """
    return load_gate(run) if gate_path(run).exists() else judge(run)


def judge(run: Run) -> GateDocument:
    """Give the verdict on a solved stack and write it down. A stack that came aligned passes unjudged.

    Raises:
        AcquisitionError, VolumeError: something that was registered is missing or damaged.
    """
    limits = run.parameters.gate
    if run.manifest.acquisition.aligned:
        document = GateDocument(verdict="pass", judged=False, limits=limits)
    else:
        measure_pairs(run)
        document = judge_stack(*stack_figures(run), limits)
    save_gate(run, document)
    return document


def stack_figures(run: Run) -> tuple[list[SectionFigures], list[PairFigures]]:
    """Figures of a solved stack from its layouts, transforms, matches and evidence.

    Raises:
        AcquisitionError, VolumeError: one of them is missing or damaged.
    """
    order = [s.section.id for s in run.sections]
    transforms = {name: load_transform(run, name) for name in order}
    held: dict[str, list[tuple[Points, float]]] = {name: [] for name in order}
    pairs = []
    for unit in run.pairs:
        figures, ends = _pair_figures(run, unit, order, transforms)
        pairs.append(figures)
        if figures.confidence is not None:
            for name, points in zip((figures.a, figures.b), ends, strict=True):
                held[name].append((points, figures.confidence))
    sections = []
    for name in order:
        seen = [p.windows for p in pairs if p.steps == 1 and name in (p.a, p.b)]
        sections.append(
            _section_figures(
                run,
                load_layout(run, name),
                placed=transforms[name].placed,
                confidence=max((confidence for _, confidence in held[name]), default=None),
                covered=_covered(seen, [points for points, _ in held[name]]),
            )
        )
    return sections, pairs


def _pair_figures(
    run: Run, unit: str, order: list[str], transforms: dict[str, SectionTransform]
) -> tuple[PairFigures, tuple[Points, Points]]:
    """Figures of a pair, and where both sections' transforms put its matches."""
    a, b = (entry.section for entry in run.pairs[unit])
    path = run.cell("align_pairs", unit).file("match.npz")
    a_yx, b_yx, peak = (x.astype(np.float64) for x in read_arrays(path, "a_yx", "b_yx", "peak"))
    ends = transforms[a.id].apply(a_yx), transforms[b.id].apply(b_yx)
    steps = order.index(b.id) - order.index(a.id)
    figures = PairFigures(
        pair=unit,
        a=a.id,
        b=b.id,
        steps=steps,
        gap=b.z - a.z,
        matches=len(peak),
        residual_px_p95=_p95(np.linalg.norm(ends[0] - ends[1], axis=1)),
        confidence=float(np.median(peak)) if len(peak) else None,
        windows=load_pair(run, unit) if steps == 1 else None,
    )
    return figures, ends


def _p95(values: Points) -> float | None:
    return float(np.percentile(values, 95)) if len(values) else None


def _covered(seen: list[Windows | None], points: list[Points]) -> float | None:
    """Share of a section's windows that its matches hold."""
    windows = [w for w in seen if w is not None and len(w) > 1]
    if not windows:
        return None
    centres = np.concatenate([w.centre_yx for w in windows])
    reach = ALONG_PX * max(w.spacing_px for w in windows)
    return coverage(centres, np.concatenate([np.zeros((0, 2)), *points]), reach_px=reach)


def _section_figures(
    run: Run,
    layout: SectionLayout,
    *,
    placed: str,
    confidence: float | None = None,
    covered: float | None = None,
) -> SectionFigures:
    """Figures of a section, its seams measured if that was not done."""
    measure_seams(run, layout)
    windows = load_seams(run, layout.section, len(layout.seams))
    return SectionFigures(
        section=layout.section,
        z=next(s.section.z for s in run.sections if s.section.id == layout.section),
        placed=placed,
        tiles=len(layout.tiles),
        by_stage=tuple(t.tile_id for t in layout.tiles if t.placed == "stage"),
        seams=tuple(
            SeamFigures(
                a=s.a,
                b=s.b,
                centre_yx=s.centre_yx,
                used=s.verdict in ("ok", "look"),
                residual_px_p95=s.residual_px_p95,
                windows=w,
            )
            for s, w in zip(layout.seams, windows, strict=True)
        ),
        confidence=confidence,
        coverage=covered,
    )


def _problem(reason: Reason) -> Problem:
    """A reason as an answer's problem."""
    return Problem(
        code=f"gate_{reason.level}",
        subject=f"{reason.subject}: {reason.text}"[:SUBJECT_CHARACTERS],
        remedy=REMEDIES[reason.level],
    )
