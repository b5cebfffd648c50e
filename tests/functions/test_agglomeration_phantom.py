"""The demo network on a phantom: halves of a neurite come together, neighbours do not."""

import numpy as np
import pytest

from ffn.checkpoint import Model, load_model
from ffn.evidence import PairEvidence
from ffn.resegmentation import ResegmentationConfig, resegment
from functions.agglomeration.decisions import agglomerate, tally
from functions.store.named import DEMO_MODEL
from tests.benchmarks.agglomeration import candidates, cut_in_two, is_inside, owners, tissue

Scene = tuple[np.ndarray, np.ndarray, dict[int, int], Model]


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Image, segments (every neurite in two), the neurite of each, and the network."""
    image, truth = tissue(301, (48, 72, 72))
    halves = cut_in_two(truth, gap=2.0, min_voxels=300)
    return image, halves, owners(halves, truth), load_model(DEMO_MODEL)


@pytest.fixture(scope="module")
def evidence(scene: Scene) -> list[PairEvidence]:
    """The halves that meet away from the border, and as many neighbours."""
    image, halves, owner, model = scene
    inner = [p for p in candidates(halves, model) if is_inside(p.point_zyx, image.shape, [10, 10, 10])]
    same = [p for p in inner if owner[p.first] == owner[p.second]]
    apart = [p for p in inner if owner[p.first] != owner[p.second]]
    assert len(same) >= 4
    chosen = same[:6] + apart[:: max(1, len(apart) // 8)][:8]
    settings = ResegmentationConfig.suiting(model.network.config)
    return list(resegment(image, halves, chosen, model=model, settings=settings))


def test_halves_are_joined_and_neighbours_are_not(scene: Scene, evidence: list[PairEvidence]) -> None:
    _, halves, owner, _ = scene
    ids, voxels = np.unique(halves[halves > 0], return_counts=True)
    result = agglomerate(evidence, segments=ids.astype(np.uint64), voxels=voxels)
    same = [d for d in result.decisions if owner[d.pair[0]] == owner[d.pair[1]]]
    apart = [d for d in result.decisions if owner[d.pair[0]] != owner[d.pair[1]]]
    assert tally(apart)["merge"] == 0
    assert tally(same)["merge"] >= 0.75 * len(same)
    assert np.median([d.score for d in same]) > 0.9
    assert max(d.score for d in apart) < 0.2
    assert result.objects == ids.size - tally(same)["merge"]
    merged = result.apply(halves)
    for decision in result.decisions:
        if decision.verdict == "merge":
            first, second = decision.pair
            assert set(merged[np.isin(halves, decision.pair)].tolist()) == {min(first, second)}


def test_the_evidence_is_the_same_in_every_run(scene: Scene, evidence: list[PairEvidence]) -> None:
    image, halves, _, model = scene
    settings = ResegmentationConfig.suiting(model.network.config)
    again = [p for p in candidates(halves, model) if p.point_zyx == evidence[0].point_zyx]
    assert next(resegment(image, halves, again, model=model, settings=settings)) == evidence[0]
