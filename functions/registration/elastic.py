"""A sheet for every region of every section on top of the rigid motions, all in one robust sparse solve.

Unknowns are the knots of the sheets, plate by plate (a plate is a region of a section), and one offset a
pair: tissue changes from section to section, so a pair's whole displacement has an error of its own, which
all its matches share. Without it a few hundred matches would be believed to a hundredth of a pixel, and the
few coarse matches of far pairs, which hold the stack straight, would count for nothing. Against locked
sections one more sheet is unknown, that of their frame (`common`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import CutSheet, Sheet, Warp, sheet_shape
from functions.registration.blocks import BlockSolver, Layout
from functions.registration.common import FrameSheet, distortion, lay_frame
from functions.registration.robust import Push, Sparse, solve_robust
from functions.registration.sheets import basis_rows, bending, membrane, slope_rows
from functions.registration.stack import StackPair, StackSection

Floats = NDArray[np.float64]
MATCH_SIGMA_PX = 0.5
PAIR_SIGMA_PX = 1.0
"""Error of a pair's whole displacement, near or far: it grows little over the reach of far pairs."""
BEND_SIGMA_PX = 2.0
STRETCH_SIGMA_PX = 12.0
SHEET_SIGMA_PX = 100.0
FRAME_SIGMA_PX = 1e4
"""Of the frame's sheet where it lies on no section."""
MIN_JACOBIAN = 0.3
"""Locally, a sheet may shrink tissue to this share of its area."""
HALF_STEPS_YX = np.array([[0.5, 0.0], [0.0, 0.5]])
STIFFENING = 8.0
MAX_STIFFENINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Plates:
    """Where the unknowns of each region of each free section are: plate `first[k] + region` of section k
    has knots (gy, gx) = `knots[k]` from unknown `start[plate]` on. Locked sections have none; the frame's
    sheet, if there is one, is the plate of a section that follows the last."""

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


def lay_plates(
    sections: Sequence[StackSection],
    spacing_px: float,
    locked: Mapping[int, Warp],
    frame: FrameSheet | None = None,
) -> Plates:
    """Number the unknowns."""
    knots = [sheet_shape(s.shape_yx, spacing_px) for s in sections]
    counts = [
        0 if k in locked else 1 if s.regions is None else s.regions.count for k, s in enumerate(sections)
    ]
    if frame is not None:
        knots.append(frame.knots)
        counts.append(1)
    owner = np.repeat(np.arange(len(knots)), counts)
    sizes = [knots[k][0] * knots[k][1] for k in owner]
    return Plates(
        knots=tuple(knots),
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
    layout: Layout,
) -> tuple[list[Warp], tuple[int, ...]]:
    """Warps of all sections, locked ones as they are; and the sections that stay too unevenly bent.

    At least one pair holds a section that is not locked.
    """
    frame = lay_frame(sections, rigid, spacing_px) if locked else None
    plates = lay_plates(sections, spacing_px, locked, frame)
    moving = [p for p in pairs if not (p.a in locked and p.b in locked)]
    design, target, weight = _equations(sections, moving, rigid, plates, spacing_px, locked)
    push = _against_shrinking(sections, moving, rigid, plates, spacing_px)
    group = np.repeat(np.arange(len(moving)), [len(p.matches) for p in moving])
    solver = BlockSolver(*_unknowns(moving, plates), layout)
    factor = np.full(len(plates.owner), stiffness)
    start = None
    for attempt in range(MAX_STIFFENINGS + 1):
        prior, right = _prior(plates, factor), np.zeros((plates.size, 2))
        if frame is not None:
            prior, right = _towards(frame, prior, plates, rigid, locked, stiffness)
        solution = solve_robust(
            design,
            target,
            weight=weight,
            prior=sparse.block_diag([prior, sparse.identity(len(moving)) / PAIR_SIGMA_PX**2], format="csr"),
            prior_right=np.concatenate([right, np.zeros((len(moving), 2))]),
            floor_px=0.4,
            rounds=8,
            cut=5.0,
            group=group,
            solver=solver,
            start=start,
            push=push,
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


def _against_shrinking(
    sections: Sequence[StackSection],
    pairs: Sequence[StackPair],
    rigid: Sequence[Floats],
    plates: Plates,
    spacing_px: float,
) -> Push:
    """What makes residuals count in pixels of the sections, not of the frame.

    Where a map shrinks, residuals in the frame do too, so the fit would be better the smaller the stack. In
    pixels of the sections a square is, to first order, r^2 (1 - (div a + div b) / 2), where div is by how
    much the sheets of both sections spread tissue there. Its slope is a push outwards on both.
    """
    parts: list[list[Sparse]] = [[], []]
    for side in range(2):
        for p in pairs:
            k, points = (p.a, p.matches.a_yx) if side == 0 else (p.b, p.matches.b_yx)
            mine = plates.of(k)
            rows = np.zeros((2, len(points), 16))
            columns = np.zeros((len(points), 16), np.int64)
            if mine:
                regions = sections[k].regions
                plate = mine.start + (0 if regions is None else regions.of(points))
                columns, slopes = slope_rows(points, spacing_px=spacing_px, shape=plates.knots[k])
                columns = columns + (plates.start[plate] + np.zeros(len(points), np.int64))[:, None]
                # slopes along the axes of the frame
                rows = np.tensordot(rigid[k][:, :2], slopes, axes=1)
            index = np.arange(16 * len(points) + 1, step=16)
            for axis in range(2):
                parts[axis].append(
                    sparse.csr_matrix(
                        (rows[axis].ravel(), columns.ravel(), index),
                        shape=(len(points), plates.size + len(pairs)),
                    )
                )
    outwards = [
        (sparse.vstack(found[: len(pairs)]) + sparse.vstack(found[len(pairs) :])).T.tocsr() for found in parts
    ]

    def push(unknowns: Floats, squares: Floats) -> Floats:
        spread = sum(matrix.T @ unknowns[:, axis] for axis, matrix in enumerate(outwards))
        scale = np.maximum(1.0 + spread / 4.0, MIN_JACOBIAN)
        return np.stack([matrix @ (squares / scale / 4.0) for matrix in outwards], axis=1)

    return push


def _prior(plates: Plates, stiffness: Floats) -> Sparse:
    """Stiffness of every plate, and a weak tie between the plates of a section.

    A region without matches thus goes where its neighbour across the line goes.
    """
    forms = []
    for k, shape in enumerate(plates.knots):
        mine = plates.of(k)
        if mine:
            forms.append(_stiffness(shape, stiffness[mine.start : mine.stop]))
    return sparse.block_diag(forms, format="csr")


def _stiffness(knots: tuple[int, int], factors: Floats) -> Sparse:
    """Of a section of so many plates."""
    count = len(factors)
    bent, stretched = bending(knots) / BEND_SIGMA_PX**2, membrane(knots) / STRETCH_SIGMA_PX**2
    own = sparse.block_diag([factor * bent + stretched for factor in factors], format="csr")
    tie = np.eye(count) * count - 1.0
    tie[0, 0] += 1.0
    return own + sparse.kron(tie, sparse.identity(knots[0] * knots[1])) / SHEET_SIGMA_PX**2


def _towards(
    frame: FrameSheet,
    prior: Sparse,
    plates: Plates,
    rigid: Sequence[Floats],
    locked: Mapping[int, Warp],
    stiffness: float,
) -> tuple[Sparse, Floats]:
    """The prior of plates that resist being unlike the frame's sheet, and its right side (P, 2).

    What locked sections are, they are: they say what the frame is like, as new ones do.
    """
    last = len(rigid)
    begin = int(plates.start[plates.first[last]])
    own = prior[:begin, :begin]
    rows = [frame.rows(plates.knots[k], rigid[k]) for k in plates.owner if k != last]
    shared = sparse.vstack(rows, format="csr") if rows else sparse.csr_matrix((0, plates.size - begin))
    pulled = own @ shared
    corner = shared.T @ pulled + sparse.identity(plates.size - begin) / FRAME_SIGMA_PX**2
    right = np.zeros((plates.size, 2))
    forms: dict[tuple[tuple[int, int], int], Sparse] = {}
    for k, warp in locked.items():
        parts = distortion(warp, rigid[k], plates.knots[k], frame.spacing_px)
        kind = (plates.knots[k], len(parts))
        if kind not in forms:  # most sections are alike, and locked ones can be thousands
            forms[kind] = _stiffness(plates.knots[k], np.full(len(parts), stiffness))
        form = forms[kind]
        row = sparse.vstack([frame.rows(plates.knots[k], rigid[k])] * len(parts), format="csr")
        corner = corner + row.T @ form @ row
        right[begin:] += row.T @ (form @ parts.reshape(-1, 2))
    return sparse.bmat([[own, -pulled], [-pulled.T, corner]], format="csr"), right


def _unknowns(pairs: Sequence[StackPair], plates: Plates) -> tuple[NDArray[np.int64], Sparse]:
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
