"""Consensus and agglomeration of a phantom with the demo network: which merges are right, and what VOI gains.

    python -m tests.benchmarks.agglomeration --seed 301 --shape 64,128,128

`pairs`: every true neurite is cut in two across its long axis, with a gap; halves of one neurite are to be
merged, neighbours are not. Points nearer to the volume's border than half a field of view, where the network
cannot go, are left out of `away_from_the_border`. `volume`: the network's own segmentations with seeds in
raster order and reversed, their consensus, and that agglomerated; VOI against the truth. One JSON document
goes to stdout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from ffn.candidates import DecisionPoint, find_contacts
from ffn.checkpoint import Model, load_model
from ffn.evidence import PairEvidence
from ffn.inference import segment
from ffn.metrics import adapted_rand_error, labelled_fraction, variation_of_information
from ffn.resegmentation import ResegmentationConfig, resegment
from functions.agglomeration.consensus import ConsensusParameters, consensus
from functions.agglomeration.decisions import Decision, DecisionParameters, agglomerate, tally
from functions.store.named import DEMO_MODEL
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig
from functions.testing.phantom_training import PhantomVolumes, as_rendered

NEAR_VOXELS = 5.0
"""Half the distance up to which two segments are candidates; membranes are 3 to 8 voxels thick here."""


def tissue(seed: int, shape: tuple[int, int, int]) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
    """Image and true labels, as a pipeline would hand them on."""
    volume = as_rendered(
        make_phantom(PhantomConfig(seed=seed, shape_zyx=shape)), PhantomVolumes(seeds=(seed,))
    )
    everything = (slice(None),) * 3
    return np.asarray(volume.image[everything]), np.asarray(volume.labels[everything])


def cut_in_two(truth: NDArray[np.uint32], *, gap: float, min_voxels: int) -> NDArray[np.uint32]:
    """Every body of the truth, cut across its long axis through its middle; small pieces dropped."""
    halves = np.zeros_like(truth)
    for body in range(1, int(truth.max()) + 1):
        where = np.argwhere(truth == body)
        if len(where) < 4 * min_voxels:
            continue
        off = where - np.median(where, axis=0)
        along = off @ np.linalg.svd(off.T @ off)[0][:, 0]
        side = np.where(along < -gap / 2, 1, np.where(along >= gap / 2, 2, 0))
        halves[tuple(where.T)] = np.where(side > 0, 2 * body + side, 0)
    pieces: NDArray[np.uint32] = connected_components(halves, connectivity=1).astype(np.uint32)
    sizes = np.bincount(pieces.ravel())
    pieces[sizes[pieces] < min_voxels] = 0
    return pieces


def owners(labels: NDArray[np.uint32], truth: NDArray[np.uint32]) -> dict[int, int]:
    """The true body in which most of each segment's labelled voxels lie."""
    both = (labels > 0) & (truth > 0)
    pairs, counts = np.unique(np.stack([labels[both], truth[both]]), axis=1, return_counts=True)
    best: dict[int, tuple[int, int]] = {}
    for (segment_id, body), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
        best[segment_id] = max(best.get(segment_id, (0, 0)), (count, body))
    return {segment_id: body for segment_id, (_, body) in best.items()}


def candidates(labels: NDArray[np.uint32], model: Model) -> list[DecisionPoint]:
    """Pairs that lie near each other."""
    size = model.voxel_size_zyx_nm
    near = find_contacts(labels, voxel_size_zyx_nm=size, max_distance_nm=NEAR_VOXELS * min(size))
    return [contact.point for contact in near]


def verdicts(decisions: tuple[Decision, ...], owner: dict[int, int]) -> dict[str, Any]:
    """Merges that are right, and verdicts on true splits and on true neighbours."""
    same = [d for d in decisions if owner.get(d.pair[0], -1) == owner.get(d.pair[1], -2)]
    apart = [d for d in decisions if owner.get(d.pair[0], -1) != owner.get(d.pair[1], -2)]
    right, wrong = (sum(d.verdict == "merge" for d in ds) for ds in (same, apart))
    return {
        "true_splits": len(same),
        "true_neighbours": len(apart),
        "precision": round(right / (right + wrong), 4) if right + wrong else None,
        "recall": round(right / len(same), 4) if same else None,
        "false_merges": wrong,
        "verdicts_true_splits": {k: n for k, n in tally(same).items() if n},
        "verdicts_true_neighbours": {k: n for k, n in tally(apart).items() if n},
        "median_iou": {
            "true_splits": round(float(np.median([d.score for d in same])), 3) if same else None,
            "true_neighbours": round(float(np.median([d.score for d in apart])), 3) if apart else None,
        },
    }


def is_inside(point: tuple[int, int, int], shape: tuple[int, ...], margin: list[int]) -> bool:
    """Whether a field of view around the point has its centre where the network can go."""
    return all(m <= p < n - m for p, m, n in zip(point, margin, shape, strict=True))


def evidence_of(
    image: NDArray[np.uint8], labels: NDArray[np.uint32], model: Model, settings: ResegmentationConfig
) -> tuple[list[PairEvidence], float]:
    """The evidence on all candidates, and how long it took."""
    points = candidates(labels, model)
    started, found = time.perf_counter(), []
    for i, evidence in enumerate(resegment(image, labels, points, model=model, settings=settings)):
        found.append(evidence)
        if i % 20 == 0:
            print(f"pair {i + 1} of {len(points)}", file=sys.stderr, flush=True)
    return found, time.perf_counter() - started


def judged(
    image: NDArray[np.uint8],
    labels: NDArray[np.uint32],
    truth: NDArray[np.uint32],
    model: Model,
    parameters: DecisionParameters,
    settings: ResegmentationConfig,
) -> tuple[dict[str, Any], NDArray[np.uint64]]:
    """Agglomerate a segmentation: the figures, and the labels after it."""
    found, seconds = evidence_of(image, labels, model, settings)
    ids, voxels = np.unique(labels[labels > 0], return_counts=True)
    result = agglomerate(found, segments=ids.astype(np.uint64), voxels=voxels, parameters=parameters)
    owner, margin = owners(labels, truth), [n // 2 for n in model.network.config.fov_zyx]
    inner = tuple(d for d in result.decisions if is_inside(d.evidence.point_zyx, labels.shape, margin))
    document = verdicts(result.decisions, owner) | {
        "away_from_the_border": verdicts(inner, owner),
        "moves_per_pair": round(float(np.mean([e.moves for e in found])), 1) if found else None,
        "seconds_per_pair": round(seconds / max(len(found), 1), 3),
        "segments": int(ids.size),
        "objects": result.objects,
    }
    return document, result.apply(labels)


def quality(labels: NDArray[np.integer], truth: NDArray[np.uint32]) -> dict[str, float]:
    """VOI and adapted Rand error where there is truth; unlabelled voxels take the nearest segment (D)."""
    voi = variation_of_information(labels, truth, treatment="fill", ignore_truth=(0,))
    are = adapted_rand_error(labels, truth, treatment="fill", ignore_truth=(0,))
    return {
        "split": round(voi.split, 4),
        "merge": round(voi.merge, 4),
        "sum": round(voi.sum, 4),
        "are": round(are, 4),
        "labelled": round(labelled_fraction(labels, foreground=truth > 0), 4),
        "segments": int(np.unique(labels[labels > 0]).size),
    }


def measure_volume(
    image: NDArray[np.uint8],
    truth: NDArray[np.uint32],
    model: Model,
    parameters: DecisionParameters,
    settings: ResegmentationConfig,
) -> dict[str, Any]:
    """Two seed orders, their consensus, and what agglomeration makes of it."""
    document: dict[str, Any] = {}
    labels = []
    for order in ("raster", "reversed"):
        seeds = dataclasses.replace(model.inference.seeds, order=order)
        config = dataclasses.replace(model.inference, seeds=seeds)
        labels.append(segment(image, model=model, config=config).labels)
        document[order] = quality(labels[-1], truth)
    agreed, agreement = consensus(labels, parameters=ConsensusParameters(min_voxels=300, fill_voxels=2))
    document["consensus"] = quality(agreed, truth) | {
        "inputs": [dataclasses.asdict(statistics) for statistics in agreement.inputs]
    }
    for name, base in (("raster", labels[0]), ("consensus", agreed)):
        figures, merged = judged(image, base, truth, model, parameters, settings)
        document[f"{name}_agglomerated"] = quality(merged, truth) | {"pairs": figures}
    return document


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=301)
    parser.add_argument("--shape", default="64,128,128", help="z,y,x of the phantom")
    parser.add_argument("--gap", type=float, default=2.0, help="voxels between the halves of a neurite")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--parts", default="pairs,volume")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    z, y, x = (int(n) for n in given.shape.split(","))
    image, truth = tissue(given.seed, (z, y, x))
    model = load_model(DEMO_MODEL)
    parameters, settings = DecisionParameters(), ResegmentationConfig.suiting(model.network.config)
    document: dict[str, Any] = {
        "seed": given.seed,
        "shape_zyx": [z, y, x],
        "decision": dataclasses.asdict(parameters),
        "resegmentation": dataclasses.asdict(settings),
    }
    if "pairs" in given.parts.split(","):
        halves = cut_in_two(truth, gap=given.gap, min_voxels=300)
        document["pairs"], _ = judged(image, halves, truth, model, parameters, settings)
    if "volume" in given.parts.split(","):
        document["volume"] = measure_volume(image, truth, model, parameters, settings)
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
