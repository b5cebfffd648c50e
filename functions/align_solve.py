"""Place all sections of the stack at once and lay out the aligned volume that align_render fills."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache, partial
from typing import Literal

import numpy as np

from functions.budget import holds_equations
from functions.model.errors import UpstreamError
from functions.model.scratch import Held
from functions.model.transform import SectionLayout, SectionTransform, Warp
from functions.model.volume import VolumeRef
from functions.registration.cuts import part_regions
from functions.registration.flow import MIN_INLIERS
from functions.registration.frame import Frame, frame_of
from functions.registration.overlaps import Matches
from functions.registration.relax import solve_stack
from functions.registration.stack import Pair, Stack, StackPair, StackSection, StoredPair
from functions.store.artefacts import load_artefacts
from functions.store.cells import UnitReport, result_of_unit
from functions.store.files import write_json
from functions.store.run import AlignedVolume, Run
from functions.store.scratch import Scratch
from functions.store.transforms import (
    ALIGNED_KINDS,
    CHUNK_PX,
    LockedSolution,
    aligned_volume_ref,
    load_layout,
    load_locked,
    read_arrays,
    save_transform,
)
from functions.store.volumes import Volume
from functions.tasks import StepName, StepResult

UNIT = "all"
MAX_LOST_PX = 16.0
"""Sections that reach further beyond the volume than this are reported."""


def perform(run: Run) -> StepResult:
    """Solve the stack; reused when done.

    Raises:
        UpstreamError: sections or pairs are not finished.
    """
    _require_done(run, "stitch", [s.section.id for s in run.sections])
    _require_done(run, "align_pairs", list(run.pairs))
    if not run.sections:
        raise UpstreamError("ingest: no usable section", remedy="look at the findings of ingest")
    mark, fresh = run.cell("align_solve").run_unit(UNIT, lambda: _compute(run))
    paths = {"solution": str(run.cell("align_solve").file("solution.json"))}
    return result_of_unit("align_solve", mark, fresh=fresh, paths=paths)


def _require_done(run: Run, step: StepName, units: list[str]) -> None:
    missing = [unit for unit in units if not run.cell(step, unit).is_done(unit)]
    if missing:
        raise UpstreamError(
            f"{step}: {len(missing)} units are not finished ({', '.join(missing[:3])})",
            remedy=f"start the run at {step}",
        )


def _compute(run: Run) -> UnitReport:
    layouts = [load_layout(run, s.section.id) for s in run.sections]
    if run.manifest.acquisition.aligned:
        stack = _identity(len(layouts))
        shape, problems = _common_shape(layouts)
        return _write(run, layouts, stack, shape, problems, None)
    sections = [
        StackSection(
            z=s.section.z,
            shape_yx=layout.shape_yx,
            stage_origin_yx_px=layout.stage_origin_yx_px,
            regions=part_regions(load_artefacts(run, layout.section)),
        )
        for s, layout in zip(run.sections, layouts, strict=True)
    ]
    locked = load_locked(run)
    parameters = run.parameters.align
    held = holds_equations(run)
    pairs = _pairs(run, held=held)
    with Scratch(run.cell("align_solve").file("scratch")) as scratch:
        stack = solve_stack(
            sections,
            pairs,
            spacing_px=float(parameters.mesh_spacing_px),
            stiffness=parameters.stiffness,
            trust_stage=parameters.trust_stage,
            locked={} if locked is None else _locked_warps(layouts, locked),
            scratch=Held() if held else scratch,
        )
    floor = None if locked is None else locked.frame.volume.shape_zyx[1:]
    frame = frame_of(sections, stack.warps, locked_shape_yx=floor)
    shift = np.concatenate([np.eye(2), -frame.corner_yx[:, None]], axis=1)
    if locked is None:
        stack = replace(stack, warps=tuple(w.then(shift) for w in stack.warps))
    near = [pairs[k] for k in stack.refused if pairs[k].b - pairs[k].a <= parameters.neighbours]
    problems = _cut(frame) + [_refused(layouts[p.a].section, layouts[p.b].section) for p in near]
    return _write(run, layouts, stack, frame.shape_yx, problems, locked)


def _refused(a: str, b: str) -> dict[str, str]:
    return {
        "code": "pair_refused",
        "subject": f"{a}-{b}: the displacement contradicts all other pairs; the pair was left out",
        "remedy": "look at both sections: the order may be wrong, or the texture repeats",
    }


def _locked_warps(layouts: list[SectionLayout], locked: LockedSolution) -> dict[int, Warp]:
    """Warps by index of the sections that an earlier solution placed."""
    out = {}
    for k, layout in enumerate(layouts):
        earlier = locked.transforms.get(layout.section)
        if earlier is None:
            continue
        if earlier.shape_yx != layout.shape_yx:
            raise UpstreamError(
                f"align.locked_solution: {layout.section} is {layout.shape_yx} px, was {earlier.shape_yx} px",
                remedy="stitch with the parameters of the locked run, or solve without it",
            )
        out[k] = earlier.warp
    if not out:
        raise UpstreamError(
            "align.locked_solution: it holds none of the sections of this run",
            remedy="name a solution of the same acquisition",
        )
    return out


def _cut(frame: Frame) -> list[dict[str, str]]:
    if frame.lost_px <= MAX_LOST_PX:
        return []
    return [
        {
            "code": "frame_cut",
            "subject": f"sections reach up to {frame.lost_px:.0f} px beyond the volume, which was cut there",
            "remedy": "look at the sections that lie outside; their pairs may be wrong, or the locked frame "
            "too small",
        }
    ]


def _write(
    run: Run,
    layouts: list[SectionLayout],
    stack: Stack,
    shape_yx: tuple[int, int],
    problems: list[dict[str, str]],
    locked: LockedSolution | None,
) -> UnitReport:
    """Write transforms, the empty volume and the solution; a locked section's transform as it was."""
    earlier = {} if locked is None else locked.transforms
    placed: Literal["identity", "matched"] = "identity" if run.manifest.acquisition.aligned else "matched"
    for layout, warp, held in zip(layouts, stack.warps, stack.held, strict=True):
        transform = SectionTransform(
            section=layout.section,
            shape_yx=layout.shape_yx,
            warp=warp,
            placed=placed if held else "interpolated",
        )
        save_transform(run, earlier.get(layout.section, transform))
    aligned = _aligned_volume(run, shape_yx, None if locked is None else locked.frame)
    for kind in ALIGNED_KINDS:
        Volume.create(run.work, aligned_volume_ref(aligned, kind))
    write_json(run.cell("align_solve").file("solution.json"), aligned.to_json())
    return _report(layouts, stack, problems)


def _pairs(run: Run, *, held: bool) -> list[Pair]:
    """The pairs that registered, their matches in memory or read whenever they are asked for."""
    index = {s.section.id: k for k, s in enumerate(run.sections)}
    read = lru_cache(maxsize=1)(partial(_matches, run))  # all of a pair is asked for, piece after piece
    out: list[Pair] = []
    for unit, (a, b) in run.pairs.items():
        matches = _matches(run, unit)
        ends = index[a.section.id], index[b.section.id]
        if len(matches) < MIN_INLIERS:
            continue
        if held:
            out.append(StackPair(a=ends[0], b=ends[1], matches=matches))
        else:
            out.append(StoredPair(a=ends[0], b=ends[1], read=partial(read, unit)))
    return out


def _matches(run: Run, unit: str) -> Matches:
    path = run.cell("align_pairs", unit).file("match.npz")
    arrays = read_arrays(path, "a_yx", "b_yx", "peak", "ratio")
    a_yx, b_yx, peak, ratio = (x.astype(np.float64) for x in arrays)
    return Matches(a_yx=a_yx, b_yx=b_yx, peak=peak, ratio=ratio)


def _identity(count: int) -> Stack:
    return Stack(warps=(Warp(affine=np.eye(2, 3)),) * count, held=(True,) * count, residuals_px=())


def _common_shape(layouts: list[SectionLayout]) -> tuple[tuple[int, int], list[dict[str, str]]]:
    """Shape that holds every section of an aligned stack; unequal shapes are reported."""
    shapes = sorted({layout.shape_yx for layout in layouts})
    problems = []
    if len(shapes) > 1:
        problems.append(
            {
                "code": "section_shapes",
                "subject": f"aligned stack with {len(shapes)} section shapes: {shapes[0]} .. {shapes[-1]}",
                "remedy": "export all sections with one canvas; they were put corner to corner",
            }
        )
    return (max(s[0] for s in shapes), max(s[1] for s in shapes)), problems


def _aligned_volume(run: Run, shape_yx: tuple[int, int], locked: AlignedVolume | None) -> AlignedVolume:
    """Rows for all z from the first to the last usable section; a locked volume only grows at its end."""
    first, last = run.sections[0].section.z, run.sections[-1].section.z
    if locked is not None:
        if first < locked.sections[0]:
            raise UpstreamError(
                f"align.locked_solution: section z{first:05d} lies before its first row",
                remedy="new sections can only follow a locked solution; solve without it",
            )
        first, last = locked.sections[0], max(last, locked.sections[-1])
    z = range(first, last + 1)
    path = run.cell("align_render").file("image.zarr").relative_to(run.work)
    return AlignedVolume(
        volume=VolumeRef(
            path=path.as_posix(),
            kind="image",
            shape_zyx=(len(z), *shape_yx),
            chunk_zyx=(1, min(CHUNK_PX, shape_yx[0]), min(CHUNK_PX, shape_yx[1])),
            dtype="uint8",
            voxel_size_zyx_nm=run.manifest.acquisition.voxel_size_zyx_nm,
        ),
        sections=tuple(z),
    )


def _report(layouts: list[SectionLayout], stack: Stack, problems: list[dict[str, str]]) -> UnitReport:
    """Residuals over all pairs, and every section that no pair holds."""
    loose = [layout.section for layout, held in zip(layouts, stack.held, strict=True) if not held]
    problems = problems + [
        {
            "code": "section_unmatched",
            "subject": f"{name}: no pair ties it to the stack; it was placed between its neighbours",
            "remedy": "look at the section; leave it out of the run if it is damaged",
        }
        for name in loose
    ]
    problems += [
        {
            "code": "section_bent",
            "subject": f"{layouts[k].section}: its map shrinks tissue to less than a third somewhere",
            "remedy": "look at the section and its pairs; raise align.stiffness",
        }
        for k in stack.bent
    ]
    if not stack.settled:
        problems.append(
            {
                "code": "solve_unsettled",
                "subject": "the elastic solve was ended before sections came to rest",
                "remedy": "look at the gate's figures; a larger align.mesh_spacing_px settles sooner",
            }
        )
    figures = {
        "sections": float(len(layouts)),
        "sections_interpolated": float(len(loose)),
        "pairs": float(len(stack.residuals_px)),
        "pairs_refused": float(len(stack.refused)),
    }
    used = [r for k, r in enumerate(stack.residuals_px) if k not in stack.refused]
    if used:
        flat = np.concatenate(used)
        figures["align_residual_px_median"] = round(float(np.median(flat)), 4)
        figures["align_residual_px_p95"] = round(float(np.percentile(flat, 95)), 4)
    return UnitReport(status="look" if problems else "ok", figures=figures, problems=tuple(problems))
