"""A label volume cut into overlapping subvolumes, some of them spoilt on purpose, and put together again."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from skimage.measure import label as connected_components

from ffn.metrics import variation_of_information
from functions.model.subvolumes import Subvolume
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, local_path, pack_local, write_local
from functions.store.run import Run
from functions.testing.phantom import make_phantom
from functions.testing.phantom_render import PhantomConfig
from functions.testing.phantom_training import PhantomVolumes, as_rendered
from tests.functions.aligned_runs import make_run
from tests.functions.test_relabel import label_all

Labels = NDArray[np.uint32]
Damage = Literal["none", "merged", "split"]

SUBVOLUME_ZYX = (64, 64, 64)
OVERLAP_ZYX = (16, 16, 16)
SPOILT_SHARE = 0.2
CHOICE = 5
"""Damage falls on one of so many: the largest contacts, or the largest objects."""


def original(data: Path | None) -> Labels:
    """A label volume whose objects are connected, each under one id; 0 where there is none."""
    if data is None:
        config = PhantomConfig(seed=301, shape_zyx=(96, 128, 128))
        truth = as_rendered(make_phantom(config), PhantomVolumes(seeds=(301,))).labels[(slice(None),) * 3]
    else:
        truth = np.load(data, allow_pickle=False)["gt"]
    pieces: Labels = connected_components(np.asarray(truth, np.int64), background=0, connectivity=1)
    return pieces.astype(np.uint32)


def merged(labels: Labels, random: np.random.Generator) -> tuple[Labels, set[int]]:
    """Two touching objects become one; the new labels, and whom it befell."""
    contacts = []
    for axis in range(3):
        a, b = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        meet = (a != b) & (a > 0) & (b > 0)
        contacts.append(np.sort(np.stack([a[meet], b[meet]], axis=1), axis=1))
    pairs, faces = np.unique(np.concatenate(contacts), axis=0, return_counts=True)
    if not len(pairs):
        return labels, set()
    kept, gone = (int(n) for n in pairs[random.choice(np.argsort(-faces, kind="stable")[:CHOICE])])
    return np.where(labels == gone, np.uint32(kept), labels), {kept, gone}


def split(labels: Labels, random: np.random.Generator) -> tuple[Labels, set[int]]:
    """An object is cut in two across its longest axis; the new labels, and whom it befell."""
    ids, sizes = np.unique(labels[labels > 0], return_counts=True)
    if not ids.size:
        return labels, set()
    victim = int(ids[random.choice(np.argsort(-sizes, kind="stable")[:CHOICE])])
    where = np.nonzero(labels == victim)
    axis = int(np.argmax([np.ptp(n) for n in where]))
    beyond = where[axis] > np.median(where[axis])
    cut = labels.copy()
    cut[tuple(n[beyond] for n in where)] = labels.max() + 1
    return cut, {victim}


def write_subvolume(run: Run, subvolume: Subvolume, labels: Labels, random: np.random.Generator) -> None:
    """As a segmenter would leave them: ids of this subvolume's own, in no order."""
    ids, inverse = np.unique(np.append(labels.ravel(), 0), return_inverse=True)
    names = np.concatenate([[0], 1 + random.permutation(ids.size - 1)]).astype(np.uint32)
    local = pack_local(names[inverse[:-1]].reshape(labels.shape), subvolume=subvolume)

    def write() -> UnitReport:
        write_local(local_path(run, subvolume), local)
        return UnitReport()

    run.cell("segment").run_unit(subvolume.id, write)


def put_together(
    truth: Labels,
    damage: Damage,
    *,
    contested_share: float,
    spoilt_share: float = SPOILT_SHARE,
    seed: int = 0,
) -> dict[str, Any]:
    """Cut, spoil, match, join and relabel; how far the result is from the truth."""
    random, hurt = np.random.default_rng(seed), set()
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(
            Path(folder),
            np.zeros(truth.shape, np.uint8),
            segment={"subvolume_zyx_px": SUBVOLUME_ZYX, "overlap_zyx_px": OVERLAP_ZYX},
            reconcile={"min_voxels": 1, "contested_share": contested_share},
        )
        spoilt = 0
        for subvolume in grid_of(run):
            labels = truth[subvolume.read.slices]
            if damage != "none" and random.random() < spoilt_share:
                labels, whom = (merged if damage == "merged" else split)(labels, random)
                hurt |= whom
                spoilt += bool(whom)
            write_subvolume(run, subvolume, labels, random)
        cpu = time.process_time()
        found = label_all(run).astype(np.int64)
        figures = run.cell("reconcile").mark("all").figures
        voi = variation_of_information(found, truth, treatment="keep", ignore_truth=(0,))
        unhurt = np.where(np.isin(truth, sorted(hurt)), 0, truth)
        rest = variation_of_information(found, unhurt, treatment="keep", ignore_truth=(0,))
        return {
            "damage": damage,
            "contested_share": contested_share,
            "subvolumes": len(grid_of(run)),
            "spoilt_subvolumes": spoilt,
            "objects": int(truth.max()),
            "hurt_objects": len(hurt),
            "joined_objects": int(figures["objects"]),
            "candidates": int(figures["candidates"]),
            "largest_share": figures["largest_share"],
            "voi_split": abs(round(voi.split, 6)),
            "voi_merge": abs(round(voi.merge, 6)),
            "voi_of_the_unhurt": abs(rest.sum),
            "merged_objects": merged_objects(found, truth),
            "background_is_exact": bool(((found == 0) == (truth == 0)).all()),
            "cpu_seconds": round(time.process_time() - cpu, 1),
        }


def merged_objects(found: NDArray[np.int64], truth: Labels, *, share: float = 0.5) -> int:
    """True objects that have most of their voxels in a found object that has most of another's, too."""
    both = truth > 0
    pairs, voxels = np.unique(np.stack([found[both], truth[both]]), axis=1, return_counts=True)
    whole = np.bincount(truth[both])
    most = voxels >= share * whole[pairs[1]]
    _, count = np.unique(pairs[0][most & (pairs[0] > 0)], return_counts=True)
    return int(count[count > 1].sum())


def measure_volume(data: Path | None) -> dict[str, Any]:
    """Nothing spoilt, mergers and splits; contested labels trusted (1) and not."""
    truth = original(data)
    cases: list[tuple[Damage, float]] = [("none", 0.25)]
    cases += [(damage, share) for damage in ("merged", "split") for share in (0.25, 1.0)]  # type: ignore[misc]
    runs = [put_together(truth, damage, contested_share=share) for damage, share in cases]
    return {
        "source": "phantom" if data is None else data.stem,
        "shape_zyx": list(truth.shape),
        "subvolume_zyx": list(SUBVOLUME_ZYX),
        "overlap_zyx": list(OVERLAP_ZYX),
        "runs": runs,
        "exact_where_nothing_was_damaged": runs[0]["voi_split"] == runs[0]["voi_merge"] == 0
        and all(run["voi_of_the_unhurt"] == 0 for run in runs),
    }
