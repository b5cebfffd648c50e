"""The hierarchical union-find: equal to the simple one, for blocks of any size and in any order."""

from dataclasses import replace

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.agglomeration.at_once import join_at_once
from functions.agglomeration.blocks import Block, Hierarchy
from functions.agglomeration.hierarchy import Child, assemble
from functions.agglomeration.tables import require_countable
from functions.model.geometry import ZYX
from tests.functions.equality_scenes import Grid, random_grid, reduced

counts = st.tuples(*[st.integers(1, 5)] * 3)
leaves = st.tuples(*[st.integers(1, 5)] * 3)


def simply(grid: Grid, *, min_voxels: int = 0) -> tuple[int, list[list[int]]]:
    """Ids by networkx: ranks of the smallest members of the components that are large enough."""
    graph, keep = nx.Graph(), {}
    for position, owned in enumerate(grid.owned_voxels):
        graph.add_nodes_from((position, label) for label in range(1, len(owned) + 1))
    step = (grid.counts_zyx[1] * grid.counts_zyx[2], grid.counts_zyx[2], 1)
    for (low, axis), rows in grid.overlaps.items():
        graph.add_edges_from(((low, a), (low + step[axis], b)) for a, b, *_, yes in rows.tolist() if yes)
    for component in nx.connected_components(graph):
        if sum(grid.owned_voxels[p][label - 1] for p, label in component) >= min_voxels:
            keep[min(component)] = component
    names = {node: i for i, root in enumerate(sorted(keep), 1) for node in keep[root]}
    return len(keep), [
        [0, *(names.get((p, label), 0) for label in range(1, len(owned) + 1))]
        for p, owned in enumerate(grid.owned_voxels)
    ]


@settings(deadline=None, max_examples=60)
@given(counts, leaves, st.integers(0, 12), st.integers(0, 8), st.integers(0, 2**31), st.sampled_from([0, 30]))
def test_it_equals_the_simple_way(
    size: ZYX, leaf: ZYX, labels: int, rows: int, seed: int, min_voxels: int
) -> None:
    grid = random_grid(size, labels=labels, rows=rows, seed=seed)
    summary, ids = reduced(grid, leaf, min_voxels=min_voxels)
    objects, expected = simply(grid, min_voxels=min_voxels)
    assert ids == expected
    assert summary.objects == objects
    assert summary.labels == sum(map(len, grid.owned_voxels))
    assert summary.voxels == sum(int(owned.sum()) for owned in grid.owned_voxels)
    whole = Hierarchy(counts_zyx=size, leaf_zyx=size)
    at_once, table = join_at_once(grid.leaf(next(whole.blocks(0)), whole), min_voxels=min_voxels, most=None)
    assert at_once == summary
    assert [table.lookup(p).tolist() for p in range(len(expected))] == expected


@settings(deadline=None, max_examples=40)
@given(counts, leaves, leaves, st.integers(0, 2**31))
def test_contested_labels_are_refused_alike_whatever_the_blocks(
    size: ZYX, one: ZYX, other: ZYX, seed: int
) -> None:
    grid = random_grid(size, labels=6, rows=8, seed=seed, share=0.2)
    assert reduced(grid, one) == reduced(grid, other)


@settings(deadline=None, max_examples=40)
@given(counts, st.integers(0, 2**31))
def test_no_path_leads_through_a_contested_label(size: ZYX, seed: int) -> None:
    """Without the contested labels the others are in the same objects: they are dead ends."""
    grid = random_grid(size, labels=6, rows=8, seed=seed, share=0.2)
    whole = Hierarchy(counts_zyx=size, leaf_zyx=size)
    strict = grid.leaf(next(whole.blocks(0)), whole)
    contested = covering_two(grid)
    degree: dict[int, int] = {}
    for key in [*strict.first.tolist(), *strict.second.tolist()]:
        degree[key] = degree.get(key, 0) + 1
    assert all(degree.get(key, 0) <= 1 for key in contested)
    loose = replace(grid, contested_share=2.0).leaf(next(whole.blocks(0)), whole)
    pairs = set(zip(loose.first.tolist(), loose.second.tolist(), strict=True))
    kept = set(zip(strict.first.tolist(), strict.second.tolist(), strict=True))
    assert {p for p in pairs if not contested & set(p)} <= kept <= pairs


def covering_two(grid: Grid) -> set[int]:
    """Keys of labels that share a fifth of their voxels with each of two labels of one neighbour."""
    step, found = (grid.counts_zyx[1] * grid.counts_zyx[2], grid.counts_zyx[2], 1), set()
    for (low, axis), rows in grid.overlaps.items():
        for position, own, total in ((low, 0, 3), (low + step[axis], 1, 4)):
            large = [row[own] for row in rows.tolist() if row[2] >= 0.2 * row[total]]
            found |= {(position << 32) + label for label in large if large.count(label) > 1}
    return found


def test_a_merger_that_a_neighbour_contradicts_joins_no_two_neurons() -> None:
    """Subvolume 1 merges both axons of a row of three; the others tell them apart."""
    rows = {
        (0, 2): np.array([[1, 1, 60, 60, 100, 1], [2, 1, 40, 40, 100, 0]]),
        (1, 2): np.array([[1, 1, 40, 100, 40, 0], [1, 2, 60, 100, 60, 1]]),
    }
    owned = [np.array([9, 9]), np.array([9]), np.array([9, 9])]
    grid = Grid(counts_zyx=(1, 1, 3), owned_voxels=owned, overlaps=rows)
    assert reduced(grid, (1, 1, 1))[1] == [[0, 1, 2], [0, 1], [0, 3, 1]]  # 1 and its 2 are two axons
    split = reduced(replace(grid, contested_share=0.25), (1, 1, 1))[1]
    assert split == [[0, 1, 2], [0, 1], [0, 3, 4]]


def test_ids_do_not_hang_on_the_order_of_rows() -> None:
    grid = random_grid((2, 3, 4), labels=9, rows=9, seed=5)
    random = np.random.default_rng(0)
    shuffled = {key: rows[random.permutation(len(rows))] for key, rows in grid.overlaps.items()}
    expected = reduced(grid, (2, 2, 2))
    assert reduced(replace(grid, overlaps=shuffled), (2, 2, 2)) == expected
    assert expected[0].objects < expected[0].labels


def test_blocks_of_a_level_partition_the_subvolumes() -> None:
    hierarchy = Hierarchy(counts_zyx=(3, 9, 20), leaf_zyx=(2, 4, 4))
    assert [hierarchy.grid(level) for level in range(hierarchy.levels)] == [
        (2, 3, 5), (2, 3, 3), (2, 2, 3), (2, 2, 2), (1, 2, 2), (1, 1, 2), (1, 1, 1),
    ]  # fmt: skip
    for level in range(hierarchy.levels):
        found = [hierarchy.positions(block) for block in hierarchy.blocks(level)]
        assert sorted(np.concatenate(found).tolist()) == list(range(540))
        if level:
            children = [c for block in hierarchy.blocks(level) for c in hierarchy.children(block)]
            assert sorted(c.id for c in children) == sorted(b.id for b in hierarchy.blocks(level - 1))
    block, rank = hierarchy.leaf_of((2, 5, 19))
    assert hierarchy.positions(block)[rank] == (2 * 9 + 5) * 20 + 19


def test_a_budget_decides_the_size_of_blocks_or_is_refused() -> None:
    assert Hierarchy.within((100, 100, 100), rows_per_overlap=1000, budget_mib=4096).leaf_zyx == (8, 8, 8)
    small = Hierarchy.within((6, 6, 6), rows_per_overlap=1e4, budget_mib=1024)
    assert small.leaf_zyx == (4, 4, 4)
    assert max(small.mib(k, rows_per_overlap=1e4) for k in range(small.levels)) <= 1024
    assert small.overlaps_read(0) == 3 * 3 * 16 + 3 * 16
    assert small.overlaps_read(small.levels - 1) == 2 * 36
    with pytest.raises(ValueError, match=r"budget_mib: 16 is too small.*subvolumes: give \d+"):
        Hierarchy.within((100, 100, 100), rows_per_overlap=100, budget_mib=16)


def test_blocks_that_count_another_number_of_equalities_are_refused() -> None:
    none = np.zeros(0, np.int32)
    one = [Child(
        block=Block(level=0, index_zyx=(0, 0, x)), keys=np.array([x]), voxels=np.array([1]),
        sides=tuple(np.array([0], np.int32) if side == 5 else none for side in range(6)),
    ) for x in range(2)]  # fmt: skip
    with pytest.raises(ValueError, match=r"l0_z0000_y0000_x0000: 1 equalities with .*_x0001, which has 0"):
        assemble(one)


def test_too_many_objects_are_refused() -> None:
    with pytest.raises(ValueError, match=r"32-bit.*min_object_voxels"):
        require_countable(2**32)
