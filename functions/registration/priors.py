"""What is known of a stack's unknowns before any match: plates resist being bent and stretched, a section's
plates hold together, and a pair's offset is small. Against locked sections, plates resist being unlike the
frame's sheet instead (`common`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from functions.model.transform import Warp
from functions.registration.common import FrameSheet, distortion
from functions.registration.plates import Plates
from functions.registration.robust import Sparse
from functions.registration.sheets import FORMS_KEPT, bending, membrane

Floats = NDArray[np.float64]
PAIR_SIGMA_PX = 1.0
"""Error of a pair's whole displacement, near or far: it grows little over the reach of far pairs."""
BEND_SIGMA_PX = 2.0
STRETCH_SIGMA_PX = 12.0
SHEET_SIGMA_PX = 100.0
FRAME_SIGMA_PX = 1e4
"""Of the frame's sheet where it lies on no section."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """Of unknowns x it costs x' A x - 2 x' `right`, with `right` (P, 2) and A in blocks of groups.

    `stiffness`: factor of each plate on the resistance to bending. `corner`: what the frame's sheet costs.
    """

    plates: Plates
    rigid: Sequence[Floats]
    stiffness: Floats
    right: Floats
    frame: FrameSheet | None = None
    corner: Sparse = None

    def blocks(self, group: int) -> dict[int, Sparse]:
        """The blocks of A in the row of a group, from the diagonal on."""
        last = len(self.plates.groups) - 2
        if self.frame is None:
            return {group: self._own(group)}
        if group == last:
            return {group: self.corner}
        own = self._own(group)
        return {group: own, last: -(own @ self._shared(group, self.frame)).tocsr()}

    def _own(self, group: int) -> Sparse:
        forms = []
        for section in self._sections(group):
            plates, offsets = self.plates.of(section), self.plates.offsets_of(section)
            if plates:
                factors = tuple(self.stiffness[plates.start : plates.stop].tolist())
                forms.append(_stiffness(self.plates.knots[section], factors))
            if offsets:
                forms.append(sparse.identity(offsets) / PAIR_SIGMA_PX**2)
        return sparse.block_diag(forms, format="csr")

    def _shared(self, group: int, frame: FrameSheet) -> Sparse:
        """The frame's displacement at a group's knots as a matrix; a pair's offset has none."""
        rows = []
        for section in self._sections(group):
            if plates := self.plates.of(section):
                here = frame.rows(self.plates.knots[section], self.rigid[section])
                rows += [here] * len(plates)
            rows.append(sparse.csr_matrix((self.plates.offsets_of(section), frame.knots[0] * frame.knots[1])))
        return sparse.vstack(rows, format="csr")

    def _sections(self, group: int) -> range:
        return range(int(self.plates.groups[group]), int(self.plates.groups[group + 1]))


def lay_prior(
    plates: Plates,
    rigid: Sequence[Floats],
    factors: Floats,
    *,
    frame: FrameSheet | None,
    locked: Mapping[int, Warp],
    locked_stiffness: float,
) -> Prior:
    """The prior of plates that resist bending so many times each.

    What locked sections are, they are: they say what the frame is like, as new ones do.
    """
    right = np.zeros((plates.size, 2))
    if frame is None:
        return Prior(plates=plates, rigid=rigid, stiffness=factors, right=right)
    free = Prior(plates=plates, rigid=rigid, stiffness=factors, right=right, frame=frame)
    begin = int(plates.bounds[-2])
    corner = sparse.identity(plates.size - begin, format="csr") / FRAME_SIGMA_PX**2
    for group in range(len(plates.groups) - 2):
        shared = free._shared(group, frame)
        corner = corner + shared.T @ (free._own(group) @ shared)
    for k, warp in locked.items():
        parts = distortion(warp, rigid[k], plates.knots[k], frame.spacing_px)
        form = _stiffness(plates.knots[k], (locked_stiffness,) * len(parts))
        row = sparse.vstack([frame.rows(plates.knots[k], rigid[k])] * len(parts), format="csr")
        corner = corner + row.T @ form @ row
        right[begin:] += row.T @ (form @ parts.reshape(-1, 2))
    return Prior(
        plates=plates, rigid=rigid, stiffness=factors, right=right, frame=frame, corner=corner.tocsr()
    )


@lru_cache(maxsize=FORMS_KEPT)
def _stiffness(knots: tuple[int, int], factors: tuple[float, ...]) -> Sparse:
    """Of a section of so many plates, which are tied to each other weakly: a region without matches goes
    where its neighbour across the line goes. Most sections are alike, and share it: not to be changed."""
    count = len(factors)
    bent, stretched = bending(knots) / BEND_SIGMA_PX**2, membrane(knots) / STRETCH_SIGMA_PX**2
    own = sparse.block_diag([factor * bent + stretched for factor in factors], format="csr")
    tie = np.eye(count) * count - 1.0
    tie[0, 0] += 1.0
    return (own + sparse.kron(tie, sparse.identity(knots[0] * knots[1])) / SHEET_SIGMA_PX**2).tocsr()
