"""The benchmark's tubes: their truth is what any union-find makes of their equalities."""

import numpy as np
import pytest

from functions.agglomeration.at_once import join_at_once
from functions.agglomeration.blocks import Hierarchy
from tests.benchmarks.reconcile_tubes import LABELS, Tubes


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 6, 5), (4, 5, 6)])
def test_the_truth_of_tubes_is_the_simple_one(counts: tuple[int, int, int]) -> None:
    tubes = Tubes(counts_zyx=counts, tubes=2)
    whole = Hierarchy(counts_zyx=counts, leaf_zyx=counts)
    summary, table = join_at_once(tubes.leaf(next(whole.blocks(0)), whole), min_voxels=0, most=None)
    assert summary.labels == LABELS * np.prod(counts)
    for positions, ids in tubes.expected():
        for position, labels, expected in zip(positions, tubes.labels(positions), ids, strict=True):
            assert table.lookup(position)[labels].tolist() == expected.tolist()
