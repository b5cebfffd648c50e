"""A sheet for every region of every section on top of the rigid motions, all in one robust sparse solve.

Unknowns are the knots of the sheets, plate by plate (a plate is a region of a section), and one offset a
pair: tissue changes from section to section, so a pair's whole displacement has an error of its own, which
all its matches share. Without it a few hundred matches would be believed to a hundredth of a pixel, and the
few coarse matches of far pairs, which hold the stack straight, would count for nothing. Against locked
sections one more sheet is unknown, that of their frame (`common`).

In memory are a few numbers for every knot and every match; what is larger (the matrix, factors of its blocks)
is in a scratch store, and formed a few matches at a time (`stack_equations`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from functions.model.scratch import Scratch
from functions.model.transform import CutSheet, Sheet, Warp, sheet_shape
from functions.registration.blocks import BlockSolver, Layout
from functions.registration.common import lay_frame
from functions.registration.match_rows import Former
from functions.registration.plates import Plates, coarse_modes, lay_plates
from functions.registration.priors import lay_prior
from functions.registration.robust import reweighted
from functions.registration.stack import Pair, StackSection
from functions.registration.stack_equations import MIN_JACOBIAN, StackEquations

Floats = NDArray[np.float64]
HALF_STEPS_YX = np.array([[0.5, 0.0], [0.0, 0.5]])
STIFFENING = 8.0
MAX_STIFFENINGS = 3
FLOOR_PX, ROUNDS, CUT = 0.4, 8, 5.0
"""Of the robust solve."""


def bend_sections(
    sections: Sequence[StackSection],
    pairs: Sequence[Pair],
    rigid: Sequence[Floats],
    *,
    spacing_px: float,
    stiffness: float,
    locked: Mapping[int, Warp],
    layout: Layout,
    scratch: Scratch,
) -> tuple[list[Warp], tuple[int, ...], bool]:
    """Warps of all sections, locked ones as they are; the sections that stay too unevenly bent; and whether
    the iteration came to its end.

    At least one pair holds a section that is not locked.
    """
    frame = lay_frame(sections, rigid, spacing_px) if locked else None
    moving = [p for p in pairs if not (p.a in locked and p.b in locked)]
    plates = lay_plates(sections, moving, spacing_px, locked, frame)
    former = Former(
        sections=sections,
        pairs=moving,
        counts=np.array([len(p.matches) for p in moving], dtype=np.int64),
        rigid=rigid,
        plates=plates,
        spacing_px=spacing_px,
        locked=locked,
    )
    factor = np.full(len(plates.owner), stiffness)
    lay = partial(lay_prior, plates, rigid, frame=frame, locked=locked, locked_stiffness=stiffness)
    equations = StackEquations(former, lay(factor), scratch)
    # plates of one section are tied weakly: factors of two take a quarter of the memory of one of both
    solver = BlockSolver(
        np.append(plates.start, plates.size), plates.offset, coarse_modes(plates), scratch, layout
    )
    unknowns = np.zeros((plates.size, 2))
    for attempt in range(MAX_STIFFENINGS + 1):
        unknowns = reweighted(
            equations,
            unknowns,
            sizes=former.counts,
            floor_px=FLOOR_PX,
            rounds=ROUNDS,
            cut=CUT,
            solver=solver,
        ).unknowns
        warps = _warps(sections, rigid, plates, unknowns, spacing_px, locked)
        folded = [k for k in range(len(sections)) if k not in locked and shrinks(warps[k], sections[k])]
        if not folded or attempt == MAX_STIFFENINGS:
            break
        factor[np.isin(plates.owner, folded)] *= STIFFENING
        equations.prior = lay(factor)
    return warps, tuple(folded), solver.settled


def shrinks(warp: Warp, section: StackSection) -> bool:
    """Whether a map shrinks tissue to less than MIN_JACOBIAN somewhere, or turns it inside out."""
    points = section.grid(4 * max(sheet_shape(section.shape_yx, 80.0)))
    region = None if section.regions is None else section.regions.of(points)
    for k, branch in enumerate(warp.branches):
        here = points if region is None or len(warp.branches) == 1 else points[region == k]
        step_y, step_x = (branch.apply(here + half) - branch.apply(here - half) for half in HALF_STEPS_YX)
        area = step_y[:, 0] * step_x[:, 1] - step_y[:, 1] * step_x[:, 0]
        if (area < MIN_JACOBIAN).any():
            return True
    return False


def _warps(
    sections: Sequence[StackSection],
    rigid: Sequence[Floats],
    plates: Plates,
    unknowns: Floats,
    spacing_px: float,
    locked: Mapping[int, Warp],
) -> list[Warp]:
    out = []
    for k, section in enumerate(sections):
        if k in locked:
            out.append(locked[k])
            continue
        parts = [unknowns[plates.range_of(p)].T for p in plates.of(k)]
        bent = np.stack([part.reshape(2, *plates.knots[k]) for part in parts])
        sheet: Sheet | CutSheet = Sheet(spacing_px=spacing_px, coefficients=bent[0])
        if section.regions is not None:
            sheet = CutSheet(spacing_px=spacing_px, coefficients=bent, regions=section.regions)
        out.append(Warp(affine=rigid[k], sheet=sheet))
    return out
