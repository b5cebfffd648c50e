import networkx as nx
import numpy as np
import pytest
import skimage.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ffn.metrics import (
    MetricError,
    Skeletons,
    adapted_rand_error,
    expected_run_length,
    fill_nearest,
    labelled_fraction,
    skeletonise,
    variation_of_information,
)

labels = hnp.arrays(np.uint16, (3, 4, 5), elements=st.integers(0, 4))


@given(labels, labels)
def test_variation_of_information_equals_scikit_image(segmentation: np.ndarray, truth: np.ndarray) -> None:
    ours = variation_of_information(segmentation, truth, treatment="keep")
    split, merge = skimage.metrics.variation_of_information(truth, segmentation)
    assert (ours.split, ours.merge) == pytest.approx((split, merge), abs=1e-9)
    assert ours.sum == ours.split + ours.merge


@given(labels, labels)
def test_ignored_truth_equals_scikit_image(segmentation: np.ndarray, truth: np.ndarray) -> None:
    truth[0] = 1
    segmentation[0, 0, :2] = 1, 2
    ours = variation_of_information(segmentation, truth, treatment="keep", ignore_truth=(0,))
    expected = skimage.metrics.variation_of_information(truth, segmentation, ignore_labels=(0,))
    assert (ours.split, ours.merge) == pytest.approx(tuple(expected), abs=1e-9)
    error, _, _ = skimage.metrics.adapted_rand_error(truth, segmentation)
    assert adapted_rand_error(segmentation, truth, treatment="keep", ignore_truth=(0,)) == pytest.approx(
        error
    )


def test_split_and_merge_are_told_apart() -> None:
    truth = np.repeat([1, 2], 8).reshape(2, 2, 4)
    halves = np.repeat([1, 2, 3, 4], 4).reshape(2, 2, 4)
    assert variation_of_information(halves, truth).split == pytest.approx(1.0)
    assert variation_of_information(halves, truth).merge == 0.0
    assert variation_of_information(np.ones_like(truth), truth).merge == pytest.approx(1.0)
    assert variation_of_information(truth * 7, truth).sum == 0.0
    assert adapted_rand_error(truth * 7, truth) == 0.0


def test_treatments_of_unlabelled_voxels() -> None:
    truth = np.array([[[1, 1, 1, 1, 2, 2, 2, 2]]])
    segmentation = np.array([[[5, 5, 5, 0, 0, 6, 6, 6]]])
    assert variation_of_information(segmentation, truth, treatment="labelled").sum == 0.0
    assert variation_of_information(segmentation, truth, treatment="fill").sum == 0.0
    keep = variation_of_information(segmentation, truth, treatment="keep")
    assert (keep.split, keep.merge) == pytest.approx((0.811278, 0.25), abs=1e-6)
    assert labelled_fraction(segmentation) == 0.75
    assert labelled_fraction(segmentation, foreground=truth == 2) == 0.75


def test_nothing_to_compare_is_nan_and_shapes_must_agree() -> None:
    empty = np.zeros((2, 2, 2), int)
    assert np.isnan(variation_of_information(empty, empty, treatment="labelled").sum)
    assert np.isnan(adapted_rand_error(empty, empty, treatment="labelled"))
    with pytest.raises(MetricError, match="crop them to one box"):
        variation_of_information(empty, np.zeros((2, 2, 3), int))


@given(labels)
def test_filling_leaves_no_zero_and_changes_no_label(values: np.ndarray) -> None:
    filled = fill_nearest(values)
    assert np.array_equal(filled[values > 0], values[values > 0])
    assert (filled > 0).all() or not values.any()


def chain(*, objects: list[int], length_nm: float = 10.0) -> Skeletons:
    """One straight skeleton along x per object with the given number of nodes, each on its own y."""
    nodes, owners, edges = [], [], []
    for y, count in enumerate(objects):
        for x in range(count):
            if x:
                edges.append((len(nodes) - 1, len(nodes)))
            nodes.append((0, y, x))
            owners.append(y + 1)
    return Skeletons(
        nodes_zyx=np.array(nodes, np.int32),
        node_object=np.array(owners, np.int64),
        edges=np.array(edges, np.int64).reshape(-1, 2),
        edge_length_nm=np.full(len(edges), length_nm),
    )


def test_perfect_segmentation_runs_the_length_weighted_mean() -> None:
    skeletons = chain(objects=[11, 31])  # 100 nm and 300 nm
    truth = np.repeat([[[1], [2]]], 31, axis=2)
    assert expected_run_length(skeletons, truth) == pytest.approx((100**2 + 300**2) / 400)


def test_a_split_costs_its_edge_and_breaks_the_run() -> None:
    segmentation = np.array([[[1] * 6 + [2] * 5]])
    assert expected_run_length(chain(objects=[11]), segmentation) == pytest.approx((50**2 + 40**2) / 100)


def test_unlabelled_nodes_cost_their_edges() -> None:
    segmentation = np.array([[[1] * 5 + [0] + [1] * 5]])
    # One segment on both sides of the gap is one run, as in funlib.
    assert expected_run_length(chain(objects=[11]), segmentation) == pytest.approx(80**2 / 100)


def test_a_merger_counts_nothing_for_either_object() -> None:
    segmentation = np.array([[[1] * 11, [1] * 6 + [2] * 5]])
    assert expected_run_length(chain(objects=[11, 11]), segmentation) == pytest.approx(40**2 / 200)


def test_a_few_merged_nodes_are_forgiven_up_to_the_threshold() -> None:
    segmentation = np.array([[[1] * 11, [1] + [2] * 10]])
    skeletons = chain(objects=[11, 11])
    assert expected_run_length(skeletons, segmentation) == pytest.approx(90**2 / 200)
    expected = (100**2 + 90**2) / 200
    assert expected_run_length(skeletons, segmentation, merge_threshold=1) == pytest.approx(expected)


def test_no_skeleton_runs_nowhere() -> None:
    assert expected_run_length(chain(objects=[1]), np.ones((1, 1, 1), int)) == 0.0


@settings(deadline=None, max_examples=30)
@given(hnp.arrays(np.uint8, (1, 3, 9), elements=st.integers(0, 3)), st.integers(0, 2))
def test_expected_run_length_equals_the_definition_edge_by_edge(segmentation: np.ndarray, few: int) -> None:
    skeletons = chain(objects=[9, 7, 4])
    assert expected_run_length(skeletons, segmentation, merge_threshold=few) == pytest.approx(
        _definition(skeletons, segmentation, few)
    )


def _definition(skeletons: Skeletons, segmentation: np.ndarray, few: int) -> float:
    """funlib.evaluate's definition in words, one edge at a time."""
    segment = [int(segmentation[tuple(n)]) for n in skeletons.nodes_zyx]
    owner = skeletons.node_object.tolist()
    held: dict[int, list[int]] = {}
    for s in set(segment):
        counts = [sum(a == s and o == k for a, o in zip(segment, owner, strict=True)) for k in (1, 2, 3)]
        held[s] = [k for k, n in zip((1, 2, 3), counts, strict=True) if n > few]
    mergers = {s for s, owners in held.items() if len(owners) > 1}
    touched = {o for s in mergers for o in held[s]}
    runs: dict[tuple[int, int], float] = {}
    for u, v in skeletons.edges.tolist():
        good = segment[u] == segment[v] != 0 and not (segment[u] in mergers and owner[u] in touched)
        if good:
            runs[owner[u], segment[u]] = runs.get((owner[u], segment[u]), 0.0) + 10.0
    return sum(length**2 for length in runs.values()) / skeletons.total_length_nm


def test_a_rod_becomes_a_line_of_its_length() -> None:
    volume = np.zeros((9, 9, 60), np.uint32)
    volume[2:7, 2:7, 5:55] = 7
    skeletons = skeletonise(volume, voxel_size_zyx_nm=(30.0, 4.0, 4.0))
    assert (skeletons.node_object == 7).all()
    assert (volume[tuple(skeletons.nodes_zyx.T)] == 7).all()
    assert 40 * 4 <= skeletons.total_length_nm <= 50 * 4
    graph = nx.Graph(skeletons.edges.tolist())
    assert nx.is_tree(graph)
    assert max(dict(graph.degree).values()) <= 2


def test_a_ring_is_cut_and_every_object_has_its_own_tree() -> None:
    y, x = np.mgrid[:40, :40]
    radius = np.hypot(y - 20, x - 20)
    volume = np.zeros((12, 40, 40), np.uint32)
    volume[3:7, (radius > 9) & (radius < 14)] = 3
    volume[9:12, 2:5, 2:38] = 5
    skeletons = skeletonise(volume, voxel_size_zyx_nm=(10.0, 10.0, 10.0))
    graph = nx.Graph(skeletons.edges.tolist())
    assert nx.number_connected_components(graph) == 2
    assert nx.is_forest(graph)
    assert expected_run_length(skeletons, volume) > 250
    assert skeletonise(volume, voxel_size_zyx_nm=(10.0, 10.0, 10.0), min_voxels=10**6).nodes_zyx.shape == (
        0,
        3,
    )


def test_short_side_branches_are_pruned() -> None:
    volume = np.zeros((9, 40, 80), np.uint32)
    volume[3:6, 18:21, 2:78] = 1
    volume[3:6, 21:25, 40:43] = 1  # a stub
    volume[3:6, 21:38, 20:23] = 1  # a branch
    whole = skeletonise(volume, voxel_size_zyx_nm=(10.0, 10.0, 10.0))
    pruned = skeletonise(volume, voxel_size_zyx_nm=(10.0, 10.0, 10.0), min_branch_nm=100.0)

    def tips(s: Skeletons) -> int:
        return int((np.bincount(s.edges.ravel()) == 1).sum())

    assert (tips(whole), tips(pruned)) == (4, 3)
    assert nx.is_tree(nx.Graph(pruned.edges.tolist()))


def test_skeletons_lose_nodes_with_their_edges() -> None:
    truth = np.zeros((3, 5, 20), np.int64)
    truth[1, 2] = 1
    whole = skeletonise(truth, voxel_size_zyx_nm=(10.0, 10.0, 10.0))
    keep = (whole.nodes_zyx[:, 2] < 8) | (whole.nodes_zyx[:, 2] > 11)
    left = whole.restrict(keep)
    assert len(left.nodes_zyx) == len(whole.nodes_zyx) - 4
    assert left.total_length_nm == whole.total_length_nm - 50.0
    assert set(np.abs(np.diff(left.nodes_zyx[left.edges][..., 2])).ravel().tolist()) == {1}
    assert expected_run_length(left, truth) == left.total_length_nm
