"""A sheet for every region of every section on top of the rigid motions, all in one robust sparse solve.

Unknowns are the knots of the sheets, plate by plate (a plate is a region of a section), and one offset a
pair: tissue changes from section to section, so a pair's whole displacement has an error of its own, which
all its matches share. Without it a few hundred matches would be believed to a hundredth of a pixel, and the
few coarse matches of far pairs, which hold the stack straight, would count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import CutSheet, Sheet, Warp, sheet_shape
from functions.registration.blocks import BlockSolver
from functions.registration.robust import Sparse, solve_robust
from functions.registration.sheets import basis_rows, bending, membrane
from functions.registration.stack import StackPair, StackSection

Floats = NDArray[np.float64]
MATCH_SIGMA_PX = 0.5
PAIR_SIGMA_PX = 1.0
"""Error of a pair's whole displacement, near or far: it grows little over the reach of far pairs."""
BEND_SIGMA_PX = 2.0
STRETCH_SIGMA_PX = 12.0
SHEET_SIGMA_PX = 100.0
MIN_JACOBIAN = 0.3
"""Locally, a sheet may shrink tissue to this share of its area."""
HALF_STEPS_YX = np.array([[0.5, 0.0], [0.0, 0.5]])
STIFFENING = 8.0
MAX_STIFFENINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plates:
    """Where the unknowns of each region of each free section are: plate `first[k] + region` of section k
    has knots (gy, gx) = `knots[k]` from unknown `start[plate]` on. Locked sections have none."""

    knots: tuple[tuple[int, int], ...]
    first: NDArray[np.int64]
    start: NDArray[np.int64]
    owner: NDArray[np.int64]
    """Section of each plate."""

    @property
    def size(self) -> int:
        """Number of unknowns."""
        return int(self.start[-1])

    def of(self, section: int) -> range:
        """The plates of a section."""
        return range(int(self.first[section]), int(self.first[section + 1]))


def lay_plates(sections: Sequence[StackSection], spacing_px: float, locked: Mapping[int, Warp]) -> Plates:
    """Number the unknowns."""
    knots = tuple(sheet_shape(s.shape_yx, spacing_px) for s in sections)
    counts = [
        0 if k in locked else 1 if s.regions is None else s.regions.count for k, s in enumerate(sections)
    ]
    owner = np.repeat(np.arange(len(sections)), counts)
    sizes = [knots[k][0] * knots[k][1] for k in owner]
    return Plates(
        knots=knots,
        first=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        start=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        owner=owner.astype(np.int64),
    )


def bend_sections(
    sections: Sequence[StackSection],
    pairs: Sequence[StackPair],
    rigid: Sequence[Floats],
    *,
    spacing_px: float,
    stiffness: float,
    locked: Mapping[int, Warp],
) -> tuple[list[Warp], tuple[int, ...]]:
    """Warps of all sections, locked ones as they are; and the sections that stay too unevenly bent."""
    plates = lay_plates(sections, spacing_px, locked)
    moving = [p for p in pairs if not (p.a in locked and p.b in locked)]
    design, target, weight = _equations(sections, moving, rigid, plates, spacing_px, locked)
    group = np.repeat(np.arange(len(moving)), [len(p.matches) for p in moving])
    solver = BlockSolver(*_layout(moving, plates))
    factor = np.full(len(plates.owner), stiffness)
    start = None
    for attempt in range(MAX_STIFFENINGS + 1):
        solution = solve_robust(
            design,
            target,
            weight=weight,
            prior=_prior(plates, factor, len(moving)),
            floor_px=0.4,
            rounds=8,
            cut=5.0,
            group=group,
            solver=solver,
            start=start,
        )
        start = solution.unknowns
        warps = _warps(sections, rigid, plates, solution.unknowns, spacing_px, locked)
        folded = [k for k in range(len(sections)) if k not in locked and shrinks(warps[k], sections[k])]
        if not folded or attempt == MAX_STIFFENINGS:
            break
        factor[np.isin(plates.owner, folded)] *= STIFFENING
    return warps, tuple(folded)


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


def _equations(
    sections: Sequence[StackSection],
    pairs: Sequence[StackPair],
    rigid: Sequence[Floats],
    plates: Plates,
    spacing_px: float,
    locked: Mapping[int, Warp],
) -> tuple[Sparse, Floats, Floats]:
    """Design (M, P), target (M, 2) and inverse variance (M,) of all matches."""
    columns, values, target, weight = [], [], [], []
    for index, pair in enumerate(pairs):
        m = pair.matches
        dz = abs(sections[pair.b].z - sections[pair.a].z)
        offset = np.zeros((len(m), 2))
        for section, points, sign in ((pair.a, m.a_yx, 1.0), (pair.b, m.b_yx, -1.0)):
            base = locked[section] if section in locked else Warp(affine=rigid[section])
            offset -= sign * base.apply(points)
            if section in locked:
                continue
            regions = sections[section].regions
            plate = plates.first[section] + (0 if regions is None else regions.of(points))
            c, w = basis_rows(points, spacing_px=spacing_px, shape=plates.knots[section])
            columns.append((plates.start[plate] + np.zeros(len(m), np.int64))[:, None] + c)
            values.append(sign * w)
        if pair.a in locked or pair.b in locked:
            columns.append(np.zeros((len(m), 16), np.int64))
            values.append(np.zeros((len(m), 16)))
        columns.append(np.full((len(m), 1), plates.size + index))
        values.append(np.ones((len(m), 1)))
        columns[-3:] = [np.concatenate(columns[-3:], axis=1)]
        values[-3:] = [np.concatenate(values[-3:], axis=1)]
        target.append(offset)
        weight.append(np.clip(m.peak, 0.05, 1.0) ** 2 / dz / MATCH_SIGMA_PX**2)
    rows = sum(len(c) for c in columns)
    flat = np.concatenate(values).ravel(), (np.repeat(np.arange(rows), 33), np.concatenate(columns).ravel())
    design = sparse.csr_matrix(flat, shape=(rows, plates.size + len(pairs)))
    design.eliminate_zeros()
    return design, np.concatenate(target), np.concatenate(weight)


def _prior(plates: Plates, stiffness: Floats, count: int) -> Sparse:
    """Stiffness of every plate, a weak tie between the plates of a section, and the errors of `count` pairs.

    A region without matches thus goes where its neighbour across the line goes.
    """
    forms = []
    for k, shape in enumerate(plates.knots):
        mine = plates.of(k)
        if not mine:
            continue
        n = shape[0] * shape[1]
        bent, stretched = bending(shape) / BEND_SIGMA_PX**2, membrane(shape) / STRETCH_SIGMA_PX**2
        own = sparse.block_diag([stiffness[p] * bent + stretched for p in mine], format="csr")
        tie = np.eye(len(mine)) * len(mine) - 1.0
        tie[0, 0] += 1.0
        forms.append(own + sparse.kron(tie, sparse.identity(n)) / SHEET_SIGMA_PX**2)
    forms.append(sparse.identity(count) / PAIR_SIGMA_PX**2)
    return sparse.block_diag(forms, format="csr")


def _layout(pairs: Sequence[StackPair], plates: Plates) -> tuple[NDArray[np.int64], Sparse]:
    """Section of every unknown (P,), and the coarse modes (P, Q): each plate moved and stretched."""
    owner, modes = [], []
    for plate, section in enumerate(plates.owner):
        gy, gx = plates.knots[section]
        owner.append(np.full(int(plates.start[plate + 1] - plates.start[plate]), section))
        y, x = np.mgrid[-1.0 : 1.0 : gy * 1j, -1.0 : 1.0 : gx * 1j]
        modes.append(np.stack([np.ones(gy * gx), y.ravel(), x.ravel()], axis=1))
    free = [p.b if len(plates.of(p.a)) == 0 else p.a for p in pairs]
    coarse = sparse.block_diag([*modes, sparse.identity(len(pairs))], format="csr")
    return np.concatenate([*owner, np.array(free, dtype=np.int64)]), coarse


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
        parts = [unknowns[plates.start[p] : plates.start[p + 1]].T for p in plates.of(k)]
        bent = np.stack([part.reshape(2, *plates.knots[k]) for part in parts])
        sheet: Sheet | CutSheet = Sheet(spacing_px=spacing_px, coefficients=bent[0])
        if section.regions is not None:
            sheet = CutSheet(spacing_px=spacing_px, coefficients=bent, regions=section.regions)
        out.append(Warp(affine=rigid[k], sheet=sheet))
    return out
