"""Segment: flood each overlapping subvolume of the aligned volume, alone, into labels of its own.

image, mask (read box) -> short gaps filled -> network -> local labels 1..n
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import ModelError
from functions.model.geometry import ZYX
from functions.model.parameters import SegmentParameters
from functions.model.subvolumes import Subvolume
from functions.store.cells import UnitReport
from functions.store.labels import grid_of, local_path, pack_local, write_local
from functions.store.run import Run
from functions.store.volumes import Volume
from functions.tasks import Problem

if TYPE_CHECKING:
    from ffn.checkpoint import Model
    from ffn.config import InferenceConfig

Image = NDArray[np.uint8]
Tissue = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Flooded:
    """What a segmenter returns: labels (Z, Y, X), 0 = none, and what they cost."""

    labels: NDArray[np.uint32]
    fovs: int = 0
    seeds: int = 0
    network_seconds: float = 0.0


class Segmenter(Protocol):
    """Anything that finds objects in an image; `tissue` says where objects may be."""

    @property
    def radius_zyx(self) -> ZYX:
        """Half its field of view: how near to a face of the image it can place its centre."""
        ...

    def __call__(self, image: Image, tissue: Tissue) -> Flooded:
        """Label the objects of `image` (Z, Y, X)."""
        ...


def units(run: Run) -> list[str]:
    """Ids of all subvolumes, in z, y, x order."""
    return [subvolume.id for subvolume in grid_of(run)]


def compute(run: Run, unit: str, *, segmenter: Segmenter | None = None) -> UnitReport:
    """Segment one subvolume and write its local labels."""
    subvolume = grid_of(run).get(unit)
    parameters = run.parameters.segment
    segmenter = segmenter or FfnSegmenter(load(run.model_path), parameters)
    problems = look_at(run, subvolume, segmenter)
    image, tissue = read(run, subvolume)
    image, tissue = fill_gaps(image, tissue, longest=parameters.fill_gap_sections)
    flooded = Flooded(labels=np.zeros(image.shape, np.uint32))
    if tissue.any():
        margins = mirror_margins(run, subvolume, segmenter) if parameters.mirror_border else ((0, 0),) * 3
        flooded = segmenter(np.pad(image, margins, mode="reflect"), np.pad(tissue, margins, mode="reflect"))
        flooded = replace(flooded, labels=crop(flooded.labels, margins))
    local = pack_local(np.where(tissue, flooded.labels, np.uint32(0)), subvolume=subvolume)
    write_local(local_path(run, subvolume), local)
    labelled = int(np.count_nonzero(local.labels))
    labelled_fraction = labelled / max(int(tissue.sum()), 1)
    if tissue.mean() > 0.5 and labelled_fraction < parameters.labelled_to_look:
        problems.append(
            Problem(
                code="labelled_low",
                subject=f"{unit}: {labelled_fraction:.1%} of the tissue is labelled",
                remedy="look whether contrast and voxel size are those the network was trained on",
            )
        )
    per_second = subvolume.read.voxels / flooded.network_seconds if flooded.network_seconds else 0.0
    return UnitReport(
        status="look" if problems else "ok",
        figures={
            "fovs": flooded.fovs,
            "seeds": flooded.seeds,
            "segments": len(local.owned_voxels),
            "voxels": subvolume.read.voxels,
            "labelled_voxels": labelled,
            "labelled_fraction": round(labelled_fraction, 4),
            "network_seconds": round(flooded.network_seconds, 3),
            "voxels_per_second": round(per_second, 1),
        },
        problems=tuple(problem.to_json() for problem in problems),
    )


def read(run: Run, subvolume: Subvolume) -> tuple[Image, Tissue]:
    """The aligned image and its tissue mask in the subvolume's read box."""
    ref = run.aligned.volume
    mask_path = run.cell("align_render").file("mask.zarr").relative_to(run.work)
    mask_ref = ref.model_copy(update={"path": str(mask_path), "kind": "mask", "dtype": "uint8"})
    image = Volume.open(run.work, ref).read(subvolume.read).astype(np.uint8, copy=False)
    return image, Volume.open(run.work, mask_ref).read(subvolume.read).astype(bool)


def fill_gaps(image: Image, tissue: Tissue, *, longest: int) -> tuple[Image, Tissue]:
    """Close gaps of up to `longest` voxels along z, between tissue on both sides, with the nearest tissue.

    A missing section would cut every neurite; the network follows them through a repeated one. Ties take the
    section above (lower z). Arrays (Z, Y, X); the arguments are not changed.
    """
    if longest == 0 or tissue.all():
        return image, tissue
    depth = image.shape[0]
    z = np.arange(depth, dtype=np.int32)[:, None, None]
    before = np.maximum.accumulate(np.where(tissue, z, -1), axis=0)
    after = np.minimum.accumulate(np.where(tissue, z, depth)[::-1], axis=0)[::-1]
    gap = ~tissue & (before >= 0) & (after < depth) & (after - before - 1 <= longest)
    source = np.where(gap, np.where(z - before <= after - z, before, after), z)
    return np.take_along_axis(image, source, axis=0), tissue | gap


def mirror_margins(
    run: Run, subvolume: Subvolume, segmenter: Segmenter
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """How far to mirror the image at each face of the read box: a radius where it is a face of the volume."""
    extent = run.aligned.volume.shape_zyx
    start, end, radius = subvolume.read.offset_zyx, subvolume.read.end_zyx, segmenter.radius_zyx
    z, y, x = ((radius[a] if start[a] == 0 else 0, radius[a] if end[a] == extent[a] else 0) for a in range(3))
    return z, y, x


def crop(labels: NDArray[np.uint32], margins: tuple[tuple[int, int], ...]) -> NDArray[np.uint32]:
    """Undo `np.pad`."""
    return labels[tuple(slice(a, n - b) for (a, b), n in zip(margins, labels.shape, strict=True))]


def look_at(run: Run, subvolume: Subvolume, segmenter: Segmenter) -> list[Problem]:
    """What does not stop the step but that a person should know.

    Raises:
        ModelError: the network's field of view is larger than what it is given.
    """
    p, radius = run.parameters.segment, segmenter.radius_zyx
    problems: list[Problem] = []
    fov = tuple(2 * r + 1 for r in radius)
    if not p.mirror_border and any(n < f for n, f in zip(subvolume.read.shape_zyx, fov, strict=True)):
        raise ModelError(
            f"{subvolume.id}: field of view {fov} is larger than the subvolume {subvolume.read.shape_zyx}",
            remedy="take more sections, set segment.subvolume_zyx_px larger or segment.mirror_border=true",
        )
    counts = grid_of(run).counts_zyx
    if any(n > 1 and o < 2 * r for n, o, r in zip(counts, p.overlap_zyx_px, radius, strict=True)):
        problems.append(
            Problem(
                code="overlap_small",
                subject=f"segment.overlap_zyx_px {p.overlap_zyx_px} is below the field of view {fov} - 1",
                remedy="set it larger, or voxels near seams are visited by neither side",
            )
        )
    if isinstance(segmenter, FfnSegmenter):
        problems += segmenter.look_at_voxels(run.aligned.volume.voxel_size_zyx_nm)
    return problems


class FfnSegmenter:
    """A flood-filling network on the device that the parameters name."""

    def __init__(self, model: Model, parameters: SegmentParameters) -> None:
        self._model = model
        self._parameters = parameters

    @property
    def radius_zyx(self) -> ZYX:
        """Half the network's field of view."""
        z, y, x = self._model.network.config.fov_zyx
        return z // 2, y // 2, x // 2

    def __call__(self, image: Image, tissue: Tissue) -> Flooded:
        """Flood `image` from seeds in `tissue`."""
        from ffn.device import choose_device
        from ffn.inference import segment

        result = segment(
            image,
            model=self._model,
            config=self._config(),
            mask=None if tissue.all() else tissue,
            device=choose_device(self._parameters.device),
        )
        counters = result.counters
        return Flooded(
            labels=result.labels,
            fovs=counters.fovs,
            seeds=counters.seeds,
            network_seconds=counters.seconds_network,
        )

    def look_at_voxels(self, voxel_size_zyx_nm: tuple[float, float, float]) -> list[Problem]:
        """A problem when the network was trained at clearly another voxel size."""
        trained = self._model.voxel_size_zyx_nm
        factor = max(max(a / b, b / a) for a, b in zip(voxel_size_zyx_nm, trained, strict=True))
        if factor <= self._parameters.voxel_size_factor:
            return []
        return [
            Problem(
                code="voxel_size",
                subject=f"volume {voxel_size_zyx_nm} nm, network {trained} nm",
                remedy="use a network trained at this voxel size",
            )
        ]

    def _config(self) -> InferenceConfig:
        """The model's own settings, changed where the run's parameters say so."""
        from ffn.config import fast

        own, p = self._model.inference, self._parameters
        if p.mode == "fast":
            own = fast(own, deltas_zyx=self._model.network.config.deltas_zyx)
        return replace(
            own,
            min_segment_size=_either(p.min_segment_voxels, own.min_segment_size),
            frontier_batch=_either(p.frontier_batch, own.frontier_batch),
            min_move_distance=_either(p.min_move_distance_px, own.min_move_distance),
        )


def _either(wanted: int | None, default: int) -> int:
    return default if wanted is None else wanted


def load(path: Path) -> Model:
    """The model of a file; one is kept per process.

    Raises:
        ModelError: the file is missing or not a model.
    """
    from ffn.checkpoint import CheckpointError

    try:
        return _load(path, path.stat().st_mtime_ns)
    except (FileNotFoundError, CheckpointError) as error:
        raise ModelError(f"segment.model: {error}", remedy="give `demo` or the path of a model") from None


@lru_cache(maxsize=1)
def _load(path: Path, _changed: int) -> Model:
    from ffn.checkpoint import load_model

    return load_model(path)
