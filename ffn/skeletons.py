"""Centre lines of objects, on which run lengths are measured."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse
from scipy.sparse import csgraph
from skimage.morphology import skeletonize


@dataclass(frozen=True, slots=True, kw_only=True)
class Skeletons:
    """Centre lines of objects: nodes at voxels, edges with lengths in nm; a forest per object."""

    nodes_zyx: NDArray[np.int32]  # (N, 3) voxels
    node_object: NDArray[np.int64]  # (N,)
    edges: NDArray[np.int64]  # (E, 2) node numbers
    edge_length_nm: NDArray[np.float64]  # (E,)

    @property
    def total_length_nm(self) -> float:
        return float(self.edge_length_nm.sum())

    def restrict(self, keep: NDArray[np.bool_]) -> "Skeletons":
        """The nodes (N,) to keep, and the edges between them; what is left out has no length either."""
        kept = keep[self.edges].all(axis=1)
        renumbered = np.cumsum(keep) - 1
        return Skeletons(
            nodes_zyx=self.nodes_zyx[keep],
            node_object=self.node_object[keep],
            edges=renumbered[self.edges[kept]].astype(np.int64),
            edge_length_nm=self.edge_length_nm[kept],
        )


def skeletonise(
    labels: NDArray[np.integer],
    *,
    voxel_size_zyx_nm: tuple[float, float, float],
    min_voxels: int = 0,
    min_branch_nm: float = 0.0,
) -> Skeletons:
    """Skeletons of all objects of `labels` (Z, Y, X) with at least `min_voxels` voxels; 0 is no object.

    Thinning in 3-d (Lee et al. 1994, in voxels, whatever their size), neighbours among 26 joined, and cycles
    cut by the minimum spanning tree of the lengths. Side branches shorter than `min_branch_nm` are pruned:
    the spurs that thinning grows towards every bump of the surface, where they touch the neighbours. A round
    object may leave one node and no length.
    """
    ids = np.unique(labels)
    ids = ids[ids > 0]
    compact = np.searchsorted(ids, labels).astype(np.int32) + 1
    compact[labels == 0] = 0
    found = []
    for number, box in enumerate(ndimage.find_objects(compact)):
        mask = compact[box] == number + 1
        if np.count_nonzero(mask) >= min_voxels:
            one = skeleton_of(
                mask,
                int(ids[number]),
                corner_zyx=np.array([part.start for part in box]),
                voxel_size_zyx_nm=voxel_size_zyx_nm,
                min_branch_nm=min_branch_nm,
            )
            found.append(one)
    return join(found)


def skeleton_of(
    mask: NDArray[np.bool_],
    owner: int,
    *,
    corner_zyx: NDArray[np.integer],
    voxel_size_zyx_nm: tuple[float, float, float],
    min_branch_nm: float = 0.0,
) -> Skeletons:
    """The skeleton of one object, whose `mask` (Z, Y, X) begins at `corner_zyx` of the volume."""
    points = np.argwhere(skeletonize(np.pad(mask, 1))).astype(np.int32)
    pairs, weights = _spanning_forest(points, voxel_size_zyx_nm)
    if min_branch_nm > 0:
        points, pairs, weights = _prune(points, pairs, weights, min_branch_nm)
    return Skeletons(
        nodes_zyx=points + np.asarray(corner_zyx, np.int32) - 1,
        node_object=np.full(len(points), owner, np.int64),
        edges=pairs,
        edge_length_nm=weights,
    )


def join(parts: Sequence[Skeletons]) -> Skeletons:
    """Skeletons of several objects as one forest."""
    first = np.cumsum([0, *(len(part.nodes_zyx) for part in parts)])
    edges = [part.edges + start for part, start in zip(parts, first[:-1], strict=True)]
    return Skeletons(
        nodes_zyx=np.concatenate([np.zeros((0, 3), np.int32), *(part.nodes_zyx for part in parts)]),
        node_object=np.concatenate([np.zeros(0, np.int64), *(part.node_object for part in parts)]),
        edges=np.concatenate([np.zeros((0, 2), np.int64), *edges]),
        edge_length_nm=np.concatenate([np.zeros(0), *(part.edge_length_nm for part in parts)]),
    )


def _spanning_forest(
    points: NDArray[np.int32], voxel_size_zyx_nm: tuple[float, float, float]
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Edges (E, 2) and lengths in nm joining neighbours (26) among `points` (N, 3) without a cycle."""
    if len(points) < 2:
        return np.zeros((0, 2), np.int64), np.zeros(0)
    low = points.min(axis=0)
    number = np.full(points.max(axis=0) - low + 3, -1, np.int64)
    inside = points - low + 1
    number[tuple(inside.T)] = np.arange(len(points))
    steps = [s for s in np.ndindex(3, 3, 3) if s > (1, 1, 1)]  # half of the 26, each pair once
    u, v, w = [], [], []
    for step in np.array(steps) - 1:
        neighbour = number[tuple((inside + step).T)]
        found = np.flatnonzero(neighbour >= 0)
        u.append(found)
        v.append(neighbour[found])
        w.append(np.full(len(found), np.linalg.norm(step * np.array(voxel_size_zyx_nm))))
    graph = sparse.coo_array(
        (np.concatenate(w), (np.concatenate(u), np.concatenate(v))), shape=(len(points), len(points))
    )
    tree = csgraph.minimum_spanning_tree(graph.tocsr()).tocoo()
    return np.column_stack([tree.row, tree.col]).astype(np.int64), tree.data.astype(np.float64)


def _prune(
    points: NDArray[np.int32], pairs: NDArray[np.int64], weights: NDArray[np.float64], min_branch_nm: float
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float64]]:
    """The forest without the tips that meet a fork after less than `min_branch_nm`, the shortest first.

    One at a time, since a fork that loses a branch may be none any more.
    """
    neighbours: list[dict[int, float]] = [{} for _ in points]
    for (u, v), w in zip(pairs.tolist(), weights.tolist(), strict=True):
        neighbours[u][v] = neighbours[v][u] = w
    tips = [(_branch(neighbours, n)[0], n) for n, near in enumerate(neighbours) if len(near) == 1]
    dropped = np.zeros(len(points), bool)
    for _, tip in sorted(tips):
        length, path = _branch(neighbours, tip)  # again: its fork may have gone
        if length >= min_branch_nm:
            continue
        for node in path:
            dropped[node] = True
            for other in neighbours[node]:
                del neighbours[other][node]
            neighbours[node].clear()
    keep = ~dropped[pairs].any(axis=1)
    renumbered = np.cumsum(~dropped) - 1
    return points[~dropped], renumbered[pairs[keep]].astype(np.int64), weights[keep]


def _branch(neighbours: list[dict[int, float]], tip: int) -> tuple[float, list[int]]:
    """Length and nodes from `tip` up to, not including, the first fork; infinite when there is none."""
    path, length, node, previous = [tip], 0.0, tip, -1
    while True:
        onward = [(n, w) for n, w in neighbours[node].items() if n != previous]
        if len(onward) != 1:
            return float("inf"), path
        previous, (node, step) = node, onward[0]
        length += step
        if len(neighbours[node]) > 2:
            return length, path
        path.append(node)
