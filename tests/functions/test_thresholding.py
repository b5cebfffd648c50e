"""Thresholds on ground truth: scores that tell true from false merges give the true ones and no more."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ffn.metrics import fill_nearest, variation_of_information
from functions.agglomeration.decisions import DecisionParameters
from functions.model.errors import VolumeError
from functions.store.edge_list import Edge, write_edges
from functions.store.thresholds import read_thresholds, write_thresholds
from functions.thresholding import read_agglomerated, sweep, thresholds_of


def edge(first: int, second: int, *, agreement: float, speculative: float, recovered: float = 0.9) -> Edge:
    return Edge(
        first_id=first,
        second_id=second,
        z=1,
        y=2,
        x=3,
        verdict="low_iou",
        score=agreement,
        agreement=agreement,
        speculative=speculative,
        recovered=recovered,
        deleted=0.0,
        foreign=0.0,
        voxels_first=500,
        voxels_second=500,
        contact_faces=40,
        contact_share=0.5,
        contact_grey=None,
        refused_overlap=0.0,
    )


def quarters() -> tuple[np.ndarray, np.ndarray]:
    """Two true bodies, each cut in two: ids 1, 2 and 3, 4; some voxels unlabelled."""
    truth = np.zeros((8, 20, 40), np.uint32)
    truth[:, :10], truth[:, 10:] = 7, 8
    labels = np.zeros_like(truth)
    labels[:, :10, :20], labels[:, :10, 20:], labels[:, 10:, :20], labels[:, 10:, 20:] = 1, 2, 3, 4
    labels[:, 9:11] = 0
    return labels, truth


UNIT = {"voxel_size_zyx_nm": (1.0, 1.0, 1.0), "limits": DecisionParameters(min_bridge_voxels=0)}


def test_the_best_threshold_lies_between_true_and_false_merges() -> None:
    labels, truth = quarters()
    edges = [
        edge(1, 2, agreement=0.9, speculative=0.9),
        edge(3, 4, agreement=0.0, speculative=0.5, recovered=0.0),  # from one side only
        edge(2, 4, agreement=0.3, speculative=0.3),  # false
    ]
    found = sweep(labels, truth, edges, **UNIT)  # type: ignore[arg-type]
    assert (found.before.voi_split, found.before.voi_merge, found.before.merges) == (1.0, 0.0, 0)
    assert (found.best.seeds, found.best.merges) == ("either", 2)
    assert (found.best.voi_split, found.best.voi_merge) == (0.0, 0.0)
    assert found.best.min_score == 0.3  # a pair is one object above
    by = {(t.seeds, t.min_score): t for t in found.trials}
    assert by["either", 0.25].voi_merge == 1.0
    assert by["both", 0.5].voi_sum == pytest.approx(0.5)
    assert by["both", 0.95].merges == 0


def test_a_sweep_equals_merging_the_voxels() -> None:
    random = np.random.default_rng(4)
    truth = random.integers(0, 4, (6, 12, 12)).astype(np.uint32)
    labels = random.integers(0, 9, truth.shape).astype(np.uint32)
    edges = [edge(2, 5, agreement=0.9, speculative=0.1), edge(1, 5, agreement=0.7, speculative=0.1)]
    for background in (True, False):
        found = sweep(labels, truth, edges, background_counts=background, rim_zyx_px=(1, 2, 2), **UNIT)  # type: ignore[arg-type]
        merged = fill_nearest(labels)[1:-1, 2:-2, 2:-2]
        merged[np.isin(merged, [2, 5])] = 1
        expected = variation_of_information(
            merged, truth[1:-1, 2:-2, 2:-2], treatment="keep", ignore_truth=() if background else (0,)
        )
        trial = next(t for t in found.trials if (t.seeds, t.min_score) == ("both", 0.6))
        assert (trial.voi_split, trial.voi_merge) == pytest.approx((expected.split, expected.merge))


def test_without_a_gain_nothing_is_merged() -> None:
    labels, truth = quarters()
    found = sweep(labels, truth, [edge(1, 3, agreement=0.9, speculative=0.9)], **UNIT)  # type: ignore[arg-type]
    assert found.best == found.before
    assert found.best.min_score == 1.0


def test_the_choice_goes_into_a_file_with_what_it_was_chosen_on(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    labels, truth = quarters()
    found = sweep(labels, truth, [edge(1, 2, agreement=0.9, speculative=0.2)], **UNIT)  # type: ignore[arg-type]
    chosen = thresholds_of(found, model=model, truth="truth.npz")
    write_thresholds(tmp_path / "t.json", chosen)
    assert read_thresholds(tmp_path / "t.json") == chosen
    assert (chosen.seeds, chosen.truth, chosen.voi_split_before, chosen.voi_split) == (
        "both",
        "truth.npz",
        1.0,
        0.5,
    )


def test_what_cannot_be_judged_is_named(tmp_path: Path) -> None:
    labels, truth = quarters()
    with pytest.raises(VolumeError, match="shapes differ"):
        sweep(labels, truth[1:], [], voxel_size_zyx_nm=(1.0, 1.0, 1.0))
    with pytest.raises(VolumeError, match="leaves no voxel"):
        sweep(labels, truth, [], voxel_size_zyx_nm=(1.0, 1.0, 1.0), rim_zyx_px=(4, 0, 0))
    with pytest.raises(VolumeError, match=r"no supervoxels and edges\.csv"):
        read_agglomerated(tmp_path)
    write_edges(tmp_path / "edges.csv", [])
    with pytest.raises(VolumeError, match=r"no supervoxels and edges\.csv"):
        read_agglomerated(tmp_path)
