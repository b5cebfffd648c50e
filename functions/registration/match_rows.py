"""What each match says of a stack's unknowns, formed a few matches at a time and put aside.

A match says that both its sections put it at one place, but for its pair's offset: 33 of the unknowns.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from functions.model.transform import Warp
from functions.registration.plates import Plates
from functions.registration.sheets import basis_rows, slope_rows
from functions.registration.stack import Pair, StackSection

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Edge = tuple[int, int]
"""Groups of sections that matches couple, the lower first; twice the same where they are within one."""
MATCH_SIGMA_PX = 0.5
PIECE_MATCHES = 8192
"""So many are worked on at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Some matches: the unknowns (M, 33) that they couple (first sheet, second sheet, offset) with their
    factors, slopes (2, M, 32) of both sheets along the axes of the frame, target (M, 2) and inverse variance
    (M,). Of a locked section all factors and slopes are 0."""

    columns: Integers
    factors: Floats
    slopes: Floats
    target: Floats
    weight: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Some matches of the pairs that couple an edge: of each of some pairs, which ones."""

    edge: Edge
    parts: tuple[tuple[int, slice], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Former:
    """Forms the rows of a stack's matches.

    `counts`: matches of each pair. `rigid`: maps (2, 3) that the sheets come on top of.
    """

    sections: Sequence[StackSection]
    pairs: Sequence[Pair]
    counts: Integers
    rigid: Sequence[Floats]
    plates: Plates
    spacing_px: float
    locked: Mapping[int, Warp]

    def pieces(self) -> list[Piece]:
        """All matches, in pieces of at most `PIECE_MATCHES`."""
        groups = self.plates.groups
        group = np.searchsorted(groups, np.arange(len(self.sections)), side="right") - 1
        parts: dict[Edge, list[list[tuple[int, slice]]]] = defaultdict(list)
        room: dict[Edge, int] = defaultdict(int)
        for index, (pair, count) in enumerate(zip(self.pairs, self.counts.tolist(), strict=True)):
            ends = [int(group[k]) for k in (pair.a, pair.b) if k not in self.locked]
            edge = min(ends), max(ends)
            start = 0
            while start < count:
                if room[edge] == 0:
                    parts[edge].append([])
                    room[edge] = PIECE_MATCHES
                stop = min(count, start + room[edge])
                parts[edge][-1].append((index, slice(start, stop)))
                room[edge] -= stop - start
                start = stop
        return [Piece(edge=edge, parts=tuple(p)) for edge in sorted(parts) for p in parts[edge]]

    def places(self, piece: Piece) -> Integers:
        """Which these matches are among all, in the order of the pairs."""
        first = np.cumsum(self.counts) - self.counts
        return np.concatenate([first[pair] + np.arange(part.start, part.stop) for pair, part in piece.parts])

    def rows(self, piece: Piece) -> Rows:
        """What some matches say."""
        parts = [self._rows(self.pairs[pair], self.plates.offset[pair], part) for pair, part in piece.parts]
        return Rows(
            columns=np.concatenate([p.columns for p in parts]),
            factors=np.concatenate([p.factors for p in parts]),
            slopes=np.concatenate([p.slopes for p in parts], axis=1),
            target=np.concatenate([p.target for p in parts]),
            weight=np.concatenate([p.weight for p in parts]),
        )

    def _rows(self, pair: Pair, offset: int, part: slice) -> Rows:
        m = pair.matches
        peak = m.peak[part]
        columns = np.full((len(peak), 33), offset)
        factors = np.zeros((len(peak), 33))
        slopes = np.zeros((2, len(peak), 32))
        factors[:, 32] = 1.0
        target = np.zeros((len(peak), 2))
        for side, (section, points) in enumerate(((pair.a, m.a_yx[part]), (pair.b, m.b_yx[part]))):
            sign, mine = 1.0 - 2.0 * side, slice(16 * side, 16 * side + 16)
            if section in self.locked:
                target -= sign * self.locked[section].apply(points)
                continue
            target -= sign * Warp(affine=self.rigid[section]).apply(points)
            shape = self.plates.knots[section]
            knots, weights = basis_rows(points, spacing_px=self.spacing_px, shape=shape)
            columns[:, mine] = self._starts(section, points)[:, None] + knots
            factors[:, mine] = sign * weights
            along = slope_rows(points, spacing_px=self.spacing_px, shape=shape)[1]
            slopes[:, :, mine] = np.tensordot(self.rigid[section][:, :2], along, axes=1)
        dz = abs(self.sections[pair.b].z - self.sections[pair.a].z)
        weight = np.clip(peak, 0.05, 1.0) ** 2 / dz / MATCH_SIGMA_PX**2
        return Rows(columns=columns, factors=factors, slopes=slopes, target=target, weight=weight)

    def _starts(self, section: int, points: Floats) -> Integers:
        """First unknown (M,) of the plate that each point is on."""
        regions, first = self.sections[section].regions, int(self.plates.first[section])
        plate = np.full(len(points), first) if regions is None else first + regions.of(points)
        return self.plates.start[plate]
