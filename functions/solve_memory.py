"""Memory of solving a stack: a few numbers for every knot and match, and the equations where they are held.

Equations and factors are held in memory where there is room, and put aside in files where there is not
(`functions.store.scratch`): the transforms are the same to the bit. Bytes are measured, as those of
`functions.needs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from functions.model.geometry import ZYX
from functions.model.parameters import AlignParameters
from functions.model.transform import sheet_shape

MIB = 1 << 20
SOLVE_MIB, KNOT_BYTES, MATCH_BYTES = 32, 240, 80
"""Solving takes so much; for each knot of all elastic meshes; for each matched patch."""
BAND_KNOTS, BAND_BYTES, COUPLED_BYTES, BEGUN_BYTES = 3, 16, 8000, 600
"""A section's factor reaches over so many knots more than as many rows; for each number of it; for each knot
of the one section that is worked on; and of each later one that its pairs reach up to."""
HELD_KNOT_BYTES, HELD_PAIR_BYTES, HELD_BAND_BYTES, HELD_MATCH_BYTES = 3000, 900, 8, 1000
"""Besides, where equations and factors are held: for each knot, once and for each pair of a section; for each
number of a factor; for each match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A stack to be solved: its sections, the knots (gy, gx) of the largest one, matches of all pairs, how
    many pairs a section has with later ones, and how many sections on the last of these is."""

    sections: int
    knots_yx: tuple[int, int]
    matches: float
    partners: int
    reach: int

    @classmethod
    def of(cls, shape_zyx: ZYX, parameters: AlignParameters) -> Solved:
        """That of a volume."""
        depth, height, width = shape_zyx
        near, far = parameters.neighbours, parameters.far_neighbours
        a_pair = height * width / parameters.stride_px**2
        return cls(
            sections=depth,
            knots_yx=sheet_shape((height, width), float(parameters.mesh_spacing_px)),
            matches=depth * (near + len(far) / 4) * a_pair,
            partners=near + len(far),
            reach=min(depth, max(near, *far, 0)),
        )

    def mib(self, *, held: bool = False) -> float:
        """What solving takes, with its equations held in memory or not."""
        knots = prod(self.knots_yx)
        band = BAND_KNOTS * (min(self.knots_yx) + 1)
        taken = KNOT_BYTES * self.sections * knots + MATCH_BYTES * self.matches
        taken += knots * (BAND_BYTES * band + COUPLED_BYTES + BEGUN_BYTES * self.reach)
        if held:
            a_knot = HELD_KNOT_BYTES + HELD_PAIR_BYTES * self.partners + HELD_BAND_BYTES * band
            taken += a_knot * self.sections * knots + HELD_MATCH_BYTES * self.matches
        return SOLVE_MIB + taken / MIB
