"""Runs that begin with an aligned volume, and segmenters that need no network."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffn.masks import Masks
from functions import segment
from functions.model.acquisition import Acquisition
from functions.model.artefacts import OUTSIDE, TISSUE
from functions.model.parameters import Parameters
from functions.model.volume import VolumeRef
from functions.segment import Flooded
from functions.store.files import write_bytes, write_json
from functions.store.run import AlignedVolume, IngestManifest, Run
from functions.store.transforms import ALIGNED_KINDS, aligned_volume_ref
from functions.store.volumes import Volume
from functions.tasks import RunSpec

VOXEL_NM = (40.0, 10.0, 10.0)


def make_run(
    root: Path,
    image: NDArray[np.uint8],
    *,
    tissue: NDArray[np.bool_] | None = None,
    codes: NDArray[np.uint8] | None = None,
    **groups: dict[str, object],
) -> Run:
    """A run under `root` whose aligned volume is `image`; `groups` are parameters, e.g. `segment={...}`.

    `codes` are artefact codes; without them tissue is nothing else.
    """
    model = root / "model.safetensors"
    if not model.exists():
        write_bytes(model, b"no weights")
    segment_group = {"model": str(model), **groups.pop("segment", {})}
    parameters = Parameters.model_validate({"segment": segment_group, **groups})
    run = Run(RunSpec(work=str(root / "work"), acquisition=str(root / "stack"), parameters=parameters))
    acquisition = Acquisition(
        id="stack", instrument="toy", layout="folder", voxel_size_zyx_nm=VOXEL_NM, aligned=True, sections=()
    )
    write_json(run.manifest_path, IngestManifest(acquisition=acquisition, sections=()).to_json())
    z, y, x = image.shape
    ref = VolumeRef(
        path=str(run.cell("align_render").file("image.zarr").relative_to(run.work)),
        kind="image",
        shape_zyx=(z, y, x),
        chunk_zyx=(1, y, x),
        dtype="uint8",
        voxel_size_zyx_nm=VOXEL_NM,
    )
    write_json(
        run.cell("align_solve").file("solution.json"),
        AlignedVolume(volume=ref, sections=tuple(range(z))).to_json(),
    )
    mask = np.ones(image.shape, np.uint8) if tissue is None else tissue.astype(np.uint8)
    planes = (image, mask, np.where(mask, TISSUE, OUTSIDE).astype(np.uint8) if codes is None else codes)
    for kind, values in zip(ALIGNED_KINDS, planes, strict=True):
        Volume.create(run.work, aligned_volume_ref(run.aligned, kind)).write(ref.box, values)
    return run


class ScrambledTruth:
    """Sees each grey value as one object and numbers them at random, differently in every image."""

    radius_zyx = (1, 1, 1)

    def __call__(self, image: NDArray[np.uint8], masks: Masks) -> Flooded:
        """Grey value 0 is background."""
        random = np.random.default_rng(zlib.crc32(image.tobytes()))
        names = np.concatenate([[0], 1 + random.permutation(10_000)[:255]]).astype(np.uint32)
        labels = names[image if masks.labels is None else np.where(masks.labels, image, 0)]
        return Flooded(labels=labels, fovs=1, seeds=2, network_seconds=0.5, host_seconds=0.25)


def segment_all(run: Run, segmenter: segment.Segmenter, *, order: list[str] | None = None) -> None:
    """Segment and mark every subvolume."""
    for unit in order or segment.units(run):
        run.cell("segment").run_unit(
            unit,
            lambda unit=unit: segment.compute(run, unit, segmenter=segmenter),  # type: ignore[misc]
        )


def voronoi(shape: tuple[int, int, int], cells: int, seed: int) -> NDArray[np.uint8]:
    """A volume of convex cells, labelled 1..cells."""
    random = np.random.default_rng(seed)
    points = random.uniform(0, shape, (cells, 3))
    grid = np.moveaxis(np.indices(shape), 0, -1)[..., None, :]
    return (1 + ((grid - points) ** 2).sum(-1).argmin(-1)).astype(np.uint8)
