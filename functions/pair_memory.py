"""Memory of agglomeration's steps: searching a block for pairs, flooding them again, deciding on all of them.

Pure arithmetic. They work in pieces that follow from the room, with the same results: planes of a block are
grown some at a time (`ffn.candidates`), as many pairs are read and flooded at once, and as many edges held
while they are put in order, as there is room for. Bytes are measured, as those of `functions.needs`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from functions.model.geometry import ZYX
from functions.model.parameters import CandidatesParameters, SegmentParameters

MIB = 1 << 20
LEAST_PLANES = 8
SEARCH_MIB, HELD_BYTES, GROWN_BYTES = 32, 18, 80
"""Searching a block takes so much; for each of its voxels, with what is seen around it; and for each of those
that are grown at a time."""
SHOWN_MIB, READ_BYTES, PAIR_BYTES, DEPTH_BYTES = 48, 16, 30, 64
"""Flooding pairs again takes so much, the network's own work with it; for each voxel that is read at a time;
for each voxel of the cube of a pair in progress; and while seeds are found in one of them."""
DECIDE_MIB, OBJECT_BYTES, EDGE_BYTES = 16, 10, 210
"""Deciding takes so much; for each object; and for each edge that is held at a time, of which there are at
least, and at most, so many:"""
LEAST_EDGES, MOST_EDGES = 1 << 12, 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """A block of candidates: its voxels with what is seen around it, those of a plane, and the planes seen
    above and below those that are grown."""

    voxels: int
    plane: int
    depth: int
    around: int

    @classmethod
    def of(
        cls, shape_zyx: ZYX, voxel_size_zyx_nm: tuple[float, float, float], parameters: CandidatesParameters
    ) -> Searched:
        """The largest block of a volume."""
        near_nm = parameters.near_px * min(voxel_size_zyx_nm)
        around = [2 * (int(near_nm / size) + 1) for size in voxel_size_zyx_nm]  # ffn.candidates.reach_zyx
        depth, height, width = (
            min(n, b + r) for n, b, r in zip(shape_zyx, parameters.block_zyx_px, around, strict=True)
        )
        return cls(voxels=depth * height * width, plane=height * width, depth=depth, around=around[0])

    def mib(self, planes: int) -> float:
        """What searching it takes, so many planes at a time."""
        grown = self.plane * min(self.depth, planes + self.around)
        return SEARCH_MIB + (HELD_BYTES * self.voxels + GROWN_BYTES * grown) / MIB

    def planes(self, room_mib: float) -> int:
        """How many planes can be grown at a time in so much memory; `LEAST_PLANES` where fewer can."""
        left = (room_mib - SEARCH_MIB) * MIB - HELD_BYTES * self.voxels
        return max(LEAST_PLANES, int(left / (GROWN_BYTES * self.plane)) - self.around)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reflooded:
    """The cube of a pair: its voxels, and those that are read for it."""

    cube: int
    read: int

    @classmethod
    def of(cls, shape_zyx: ZYX, fov_zyx: ZYX, parameters: SegmentParameters) -> Reflooded:
        """The cube that suits a field of view (`ffn.reflooding`), and around it what gaps are filled by."""
        cube = [2 * -(-3 * n // 2) + 1 for n in fov_zyx]
        depth = cube[0] + 2 * (parameters.fill_gap_sections + parameters.fill_avoided_sections)
        inside = [min(n, c) for n, c in zip(shape_zyx, (depth, *cube[1:]), strict=True)]
        return cls(cube=prod(cube), read=prod(inside))

    def mib(self, *, pairs: int, read: float) -> float:
        """What so many pairs at once take, with so many voxels read."""
        return SHOWN_MIB + (READ_BYTES * read + (PAIR_BYTES * pairs + DEPTH_BYTES) * self.cube) / MIB

    def pieces(self, room_mib: float) -> tuple[int, int]:
        """Pairs at once, and voxels read at a time, in so much memory; half of what is left for each, and at
        least one pair and what it reads."""
        left = (room_mib - self.mib(pairs=1, read=self.read)) * MIB
        pairs = 1 + int(max(0.0, left / 2) / (PAIR_BYTES * self.cube))
        return pairs, self.read + int(max(0.0, left / 2) / READ_BYTES)


def deciding_mib(objects: float, edges: float = LEAST_EDGES) -> float:
    """What deciding takes with so many objects, and edges that are held at a time."""
    return DECIDE_MIB + (OBJECT_BYTES * objects + EDGE_BYTES * edges) / MIB


def held_edges(room_mib: float, objects: float) -> int:
    """How many edges can be held at a time in so much memory; `LEAST_EDGES` where fewer can."""
    left = (room_mib - deciding_mib(objects, 0)) * MIB
    return max(LEAST_EDGES, min(MOST_EDGES, int(left / EDGE_BYTES)))
