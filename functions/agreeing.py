"""A subvolume segmented several times over, and what all segmentations agree on: fewer mergers, more splits.

    image ─┬► seeds as the model or the mode orders them ─┐
           ├► seeds in reverse ───────────────────────────┼► consensus ─► labels
           └► ...                                         ┘

See `functions.agglomeration.consensus`. A segmentation that is done is kept beside the results until all are,
so that a killed process costs minutes here, too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

from ffn.masks import Masks
from functions.agglomeration.consensus import ConsensusParameters, consensus
from functions.budget import subvolumes_at_once
from functions.model.errors import VolumeError
from functions.model.geometry import ZYX
from functions.model.parameters import SegmentParameters
from functions.segmenters import FfnSegmenter, Flooded, Image, Segmenter, not_kept, unusable
from functions.store.progress import ProgressFile
from functions.store.run import Run
from functions.tasks import Problem

FILL_VOXELS = 2
"""How far frayed surfaces of the pieces are mended, where no segmentation contradicts."""
COUNTS = tuple(f.name for f in fields(Flooded) if f.name not in ("labels", "problems"))


def parameters_of(run: Run) -> SegmentParameters:
    """A run's own, with as many subvolumes at once as its workers have room for.

    Raises:
        ModelError: no such device.
    """
    return run.parameters.segment.model_copy(update={"at_once": subvolumes_at_once(run)})


def segmenter_of(run: Run, unit: str) -> FfnSegmenter | AgreeingSegmenter:
    """What segments a subvolume of this run under its parameters.

    Raises:
        ModelError: not a model, no such device, or a precision that nobody has passed.
    """
    cell, p = run.cell("segment"), parameters_of(run)
    first = FfnSegmenter(run.model_path, p, progress=ProgressFile.of(cell, unit), stop=run.stop)
    if not p.consensus_orders:
        return first
    again = [
        FfnSegmenter(
            run.model_path, p, progress=ProgressFile.of(cell, f"{unit}-{i}"), seed_order=order, stop=run.stop
        )
        for i, order in enumerate(p.consensus_orders, start=1)
    ]
    segmenters = (first, *again)
    return AgreeingSegmenter(
        segmenters=segmenters,
        kept=tuple(ProgressFile.of(cell, f"{unit}-{i}-done") for i in range(len(segmenters))),
        min_voxels=first.min_segment_voxels,
    )


def progress_files(run: Run, unit: str) -> list[ProgressFile]:
    """All that may be kept of a subvolume in progress."""
    count = len(run.parameters.segment.consensus_orders)
    parts = [f"{unit}-{i}{end}" for i in range(count + 1) for end in ("", "-done")] if count else []
    return [ProgressFile.of(run.cell("segment"), name) for name in (unit, *parts)]


def reached_of(run: Run, unit: str) -> str:
    """Differs whenever any of a subvolume's segmentations got further."""
    return " ".join(found for file in progress_files(run, unit) if (found := file.reached))


def forget_progress(run: Run, unit: str) -> None:
    """Forget all that was reached of a subvolume that is done."""
    for file in progress_files(run, unit):
        file.remove()


@dataclass(frozen=True, slots=True, kw_only=True)
class AgreeingSegmenter:
    """The consensus of several segmenters; each one's labels are in `kept` once it is done."""

    segmenters: tuple[Segmenter, ...]
    kept: tuple[ProgressFile, ...]
    min_voxels: int
    """Smaller pieces are left unlabelled."""

    @property
    def radius_zyx(self) -> ZYX:
        """The largest field of view's."""
        radii = [segmenter.radius_zyx for segmenter in self.segmenters]
        z, y, x = (max(radius[axis] for radius in radii) for axis in range(3))
        return z, y, x

    def __call__(self, image: Image, masks: Masks) -> Flooded:
        """What all agree on; counts and seconds are those of all together."""
        found = [self._flood(i, image, masks) for i in range(len(self.segmenters))]
        settings = ConsensusParameters(min_voxels=self.min_voxels, fill_voxels=FILL_VOXELS)
        labels, _ = consensus([f.labels for f in found], parameters=settings)
        if masks.labels is not None:
            labels[~masks.labels] = 0  # filling knows no masks
        sums = {name: sum(getattr(f, name) for f in found) for name in COUNTS}
        problems = {problem: None for f in found for problem in f.problems}
        return Flooded(labels=labels, problems=tuple(problems), **sums)

    def look_at(self, voxel_size_zyx_nm: tuple[float, float, float]) -> list[Problem]:
        """What the network's own segmenter says of the volume."""
        first = self.segmenters[0]
        return first.look_at(voxel_size_zyx_nm) if isinstance(first, FfnSegmenter) else []

    def _flood(self, number: int, image: Image, masks: Masks) -> Flooded:
        kept, problems = self.kept[number], list[Problem]()
        try:
            done = _done(kept, image.shape)
        except VolumeError as error:  # it is only a short cut
            kept.put_aside()
            done, problems = None, [unusable(str(error))]
        if done is not None:
            return done
        found = self.segmenters[number](image, masks)
        found = replace(found, problems=(*problems, *found.problems))
        try:
            kept.write({"labels": found.labels, "counts": np.array([getattr(found, n) for n in COUNTS])})
        except OSError as error:  # scratch is full: go on, as within a segmentation
            return replace(found, problems=(*found.problems, not_kept(error)))
        return found


def _done(kept: ProgressFile, shape_zyx: tuple[int, ...]) -> Flooded | None:
    """A segmentation that an earlier process ended; None where there is none.

    Raises:
        VolumeError: the file is damaged.
    """
    arrays = kept.read()
    if arrays is None:
        return None
    labels, counts = arrays.get("labels"), arrays.get("counts")
    if labels is None or labels.shape != shape_zyx or counts is None or counts.shape != (len(COUNTS),):
        raise VolumeError(f"{kept.path}: damaged (no labels {shape_zyx} with counts)", remedy="remove it")
    return Flooded(labels=labels.astype(np.uint32), **dict(zip(COUNTS, counts.tolist(), strict=True)))
