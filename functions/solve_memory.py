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
BAND_KNOTS, BAND_BYTES, COUPLED_BYTES = 3, 16, 8000
"""A section's factor reaches over so many knots more than as many rows; for each number of it; and for each
knot of the one section that is worked on."""
HELD_KNOT_BYTES, HELD_MATCH_BYTES = 13_500, 1000
"""The same where equations and factors are held."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Solved:
    """A stack to be solved: its sections, the knots (gy, gx) of the largest one, and matches of all pairs."""

    sections: int
    knots_yx: tuple[int, int]
    matches: float

    @classmethod
    def of(cls, shape_zyx: ZYX, parameters: AlignParameters) -> Solved:
        """That of a volume."""
        depth, height, width = shape_zyx
        a_pair = height * width / parameters.stride_px**2
        pairs = depth * (parameters.neighbours + len(parameters.far_neighbours) / 4)
        return cls(
            sections=depth,
            knots_yx=sheet_shape((height, width), float(parameters.mesh_spacing_px)),
            matches=pairs * a_pair,
        )

    def mib(self, *, held: bool = False) -> float:
        """What solving takes, with its equations held in memory or not."""
        knots = prod(self.knots_yx)
        if held:
            return (
                SOLVE_MIB + (HELD_KNOT_BYTES * self.sections * knots + HELD_MATCH_BYTES * self.matches) / MIB
            )
        band = BAND_KNOTS * (min(self.knots_yx) + 1)
        section = knots * (BAND_BYTES * band + COUPLED_BYTES)
        return SOLVE_MIB + (KNOT_BYTES * self.sections * knots + MATCH_BYTES * self.matches + section) / MIB
