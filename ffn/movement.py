"""Where the field of view goes next: maxima on the faces of a cube around its centre, first in, first out.

The policy of google/ffn (`FaceMaxMovementPolicy`; Januszewski et al. 2018), order and rounding included:

        +-----------+   The cube reaches `deltas` from the centre c. On each of its six faces
        |     *     |   the most probable voxel (*) is a candidate if it passes the threshold.
        *     c     *   Visited centres are remembered on a lattice of cells of size `deltas`,
        |       *   |   with the start of the object in the middle of a cell: one visit per cell.
        +-----------+
"""

import math
from collections import deque
from collections.abc import Callable, Iterable
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple


def face_maxima(
    logits: NDArray[np.float32], *, deltas_zyx: Triple, threshold: float
) -> list[tuple[float, Triple]]:
    """The candidates of one field of view: (logit, offset from its centre), best first.

    `logits` (Z, Y, X) odd; the maximum of a face is its first in C order; equal logits go by descending
    offset. Voxels of `threshold` or more count.
    """
    centre = [n // 2 for n in logits.shape]
    cube = [slice(c - d, c + d + 1) for c, d in zip(centre, deltas_zyx, strict=True)]
    found: set[tuple[float, Triple]] = set()
    for axis, delta in enumerate(deltas_zyx):
        if delta == 0:
            continue
        for step in (-delta, delta):
            selection: list[slice | int] = [*cube]
            selection[axis] = centre[axis] + step
            face = logits[tuple(selection)]
            row, column = divmod(int(face.argmax()), face.shape[1])
            score = float(face[row, column])
            if score < threshold:
                continue
            offset = [row - face.shape[0] // 2, column - face.shape[1] // 2]
            offset.insert(axis, step)
            found.add((score, (offset[0], offset[1], offset[2])))
    return sorted(found, reverse=True)


class Frontier:
    """The moves of one object: a queue of centres and the lattice cells already visited.

    `min_distance` leaves out moves nearer than that (Euclidean, voxels) to a visited centre; 0 none.
    `skipped` counts the moves left out for nothing but that.
    """

    def __init__(self, start_zyx: Triple, *, deltas_zyx: Triple, min_distance: float = 0.0) -> None:
        (z, y, x), (dz, dy, dx) = start_zyx, deltas_zyx
        self._side: Triple = (max(dz, 1), max(dy, 1), max(dx, 1))
        self._origin: Triple = (z - dz // 2, y - dy // 2, x - dx // 2)  # of the cell of the start
        self._min_distance = min_distance
        self._cube_side = max(math.ceil(min_distance), 1)
        self.skipped = 0
        self._queue: deque[Triple] = deque([start_zyx])
        self._cells: set[Triple] = set()
        self._centres: dict[Triple, list[Triple]] = {}  # by cubes no smaller than min_distance

    def __len__(self) -> int:
        return len(self._queue)

    def pop(self, is_valid: Callable[[Triple], bool]) -> Triple | None:
        """The next centre whose cell is unvisited and which is valid now; None when the queue is empty."""
        while self._queue:
            position = self._queue.popleft()
            if self._cell(position) in self._cells or not is_valid(position):
                continue
            if not self._near(position):
                return position
            self.skipped += 1
        return None

    @property
    def pending(self) -> tuple[Triple, ...]:
        """The queue, first to last; with the visited centres all there is to know about an object's moves."""
        return tuple(self._queue)

    def ahead(self, count: int) -> tuple[Triple, ...]:
        """The first `count` of the queue: those that will be asked about next."""
        return tuple(islice(self._queue, count))

    def cell_corner(self, position: Triple) -> Triple:
        """The first voxel of the lattice cell in which `position` lies."""
        (z, y, x), (oz, oy, ox), (sz, sy, sx) = position, self._origin, self._side
        return z - (z - oz) % sz, y - (y - oy) % sy, x - (x - ox) % sx

    def take_up(self, *, visited: Iterable[Triple], pending: Iterable[Triple]) -> None:
        """Goes on with the moves of an object that was put away, in place of its start."""
        for position in visited:
            self.visit(position)
        self._queue = deque(pending)

    def visit(self, position: Triple) -> None:
        """Marks the cell of `position` as done."""
        self._cells.add(self._cell(position))
        if self._min_distance > 0:
            self._centres.setdefault(self._cube(position), []).append(position)

    def extend(self, position: Triple, candidates: list[tuple[float, Triple]]) -> None:
        """Appends the candidates around `position`, in their order."""
        z, y, x = position
        self._queue.extend((z + dz, y + dy, x + dx) for _, (dz, dy, dx) in candidates)

    def _cell(self, position: Triple) -> Triple:
        (z, y, x), (oz, oy, ox), (sz, sy, sx) = position, self._origin, self._side
        return (z - oz) // sz, (y - oy) // sy, (x - ox) // sx

    def _cube(self, position: Triple) -> Triple:
        z, y, x = position
        return z // self._cube_side, y // self._cube_side, x // self._cube_side

    def _near(self, position: Triple) -> bool:
        if self._min_distance == 0:
            return False
        cz, cy, cx = self._cube(position)
        cubes = ((cz + i, cy + j, cx + k) for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1))
        return any(
            math.dist(position, centre) < self._min_distance
            for cube in cubes
            for centre in self._centres.get(cube, ())
        )
