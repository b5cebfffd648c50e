"""The benchmark's tubes: their truth is what any union-find makes of their equalities."""

import numpy as np
import pytest

from functions.agglomeration.at_once import join_at_once
from functions.agglomeration.blocks import Hierarchy
from tests.benchmarks.reconcile import measure_sizes
from tests.benchmarks.reconcile_tubes import LABELS, Tubes
from tests.benchmarks.reconcile_volume import put_together

SPOILS_ONE = 0
"""A seed."""


@pytest.mark.parametrize("counts", [(1, 1, 1), (1, 6, 5), (4, 5, 6)])
def test_the_truth_of_tubes_is_the_simple_one(counts: tuple[int, int, int]) -> None:
    tubes = Tubes(counts_zyx=counts, tubes=2)
    whole = Hierarchy(counts_zyx=counts, leaf_zyx=counts)
    summary, table = join_at_once(tubes.leaf(next(whole.blocks(0)), whole), min_voxels=0, most=None)
    assert summary.labels == LABELS * np.prod(counts)
    for positions, ids in tubes.expected():
        for position, labels, expected in zip(positions, tubes.labels(positions), ids, strict=True):
            assert table.lookup(position)[labels].tolist() == expected.tolist()


def rods() -> np.ndarray:
    """Four rods through four subvolumes in a row."""
    truth = np.zeros((16, 16, 208), np.uint32)
    truth[:8, :8], truth[8:, :8], truth[:8, 8:], truth[8:, 8:] = 1, 2, 3, 4
    return truth


def test_an_undamaged_volume_comes_back_exactly() -> None:
    whole = put_together(rods(), "none", contested_share=0.25)
    assert (whole["subvolumes"], whole["joined_objects"]) == (4, 4)
    assert (whole["voi_split"], whole["voi_merge"], whole["candidates"]) == (0, 0, 0)


def test_a_merger_in_one_subvolume_joins_two_rods_only_if_it_is_trusted() -> None:
    trusted, doubted = (
        put_together(rods(), "merged", contested_share=share, spoilt_share=0.3, seed=SPOILS_ONE)
        for share in (1.0, 0.25)
    )
    assert trusted["spoilt_subvolumes"] == doubted["spoilt_subvolumes"] == 1
    assert (trusted["merged_objects"], doubted["merged_objects"]) == (2, 0)
    assert trusted["voi_of_the_unhurt"] == doubted["voi_of_the_unhurt"] == 0
    assert doubted["candidates"] > trusted["candidates"]


def test_sizes_are_measured_in_a_process_of_their_own() -> None:
    found = measure_sizes([1_000], tubes=1)
    assert (found["all_ids_right"], found["same_in_other_blocks"], found["exponents"]) == (True, True, [])
    (size,) = found["sizes"]
    assert size["local_objects"] - size["equalities"] == size["objects"]  # tubes form no rings
    assert 10 < size["peak_rss_mib"] < 1000
