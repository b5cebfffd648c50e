"""A small run that is done up to relabel: tiles, layouts, transforms, image, labels, marks; made by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from functions.model.acquisition import Acquisition, Finding, Section, Tile
from functions.model.artefacts import FOLD, OUTSIDE, TISSUE
from functions.model.geometry import Box
from functions.model.parameters import FinishParameters, Parameters, SegmentParameters
from functions.model.transform import (
    Seam,
    SectionLayout,
    SectionTransform,
    Sheet,
    TileTransform,
    Warp,
    sheet_shape,
)
from functions.model.volume import VolumeRef
from functions.store.cells import Mark
from functions.store.files import write_json
from functions.store.run import AlignedVolume, IngestedSection, IngestManifest, Run
from functions.store.transforms import (
    aligned_volume_ref,
    load_transform,
    save_transform,
    section_volume,
    write_arrays,
)
from functions.store.volumes import Volume
from functions.tasks import RunSpec

VOXEL = (30.0, 8.0, 8.0)
SECTIONS = (0, 1, 2, 4, 5, 6, 7)
TILE = (140, 150)
STEP = (110, 120)
SIZE = (250, 270)
JITTER = 12
CELLS = 60
LICENSE = "https://creativecommons.org/licenses/by/4.0/"
HOSTILE = '"><img src=x onerror=alert(1)>'


def truth(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Labels (8, 250, 270) of a Voronoi tissue and its image: dark membranes, some texture."""
    rng = np.random.default_rng(seed)
    seeds = np.ones((8, *SIZE), dtype=bool)
    at = np.stack([rng.integers(0, n, CELLS) for n in seeds.shape], axis=1)
    seeds[tuple(at.T)] = False
    _, index = ndimage.distance_transform_edt(seeds, sampling=VOXEL, return_indices=True)
    ids = np.zeros(seeds.shape, dtype=np.uint32)
    ids[tuple(at.T)] = np.arange(1, CELLS + 1)
    labels = ids[tuple(index)]
    border = np.zeros(labels.shape, dtype=bool)
    for axis in (1, 2):
        border |= np.diff(labels, axis=axis, append=0) != 0
    image = 165 - 110 * ndimage.gaussian_filter(ndimage.binary_dilation(border).astype(float), (0, 1, 1))
    image += 12 * ndimage.gaussian_filter(rng.standard_normal(labels.shape), (0, 2, 2)) * 4
    labels[border] = 0
    return labels, np.clip(image, 1, 255).astype(np.uint8)


def finished_run(
    root: Path, *, finish: FinishParameters | None = None, instrument: str = "phantom", aligned: bool = False
) -> Run:
    """A run under `root/work` on `root/raw`, done up to relabel, all deterministic."""
    model = root / "network.safetensors"
    root.mkdir(parents=True, exist_ok=True)
    model.write_bytes(b"only its checksum is used")
    parameters = Parameters(segment=SegmentParameters(model=str(model)), finish=finish or FinishParameters())
    run = Run(RunSpec(work=str(root / "work"), acquisition=str(root / "raw"), parameters=parameters))
    labels, image = truth()
    _ingest(run, image, instrument, aligned)
    offsets = np.random.default_rng(2).integers(-JITTER, JITTER + 1, (8, 2))
    frame = VolumeRef(
        path="",
        kind="image",
        shape_zyx=(8, *SIZE),
        chunk_zyx=(1, 128, 128),
        dtype="uint8",
        voxel_size_zyx_nm=VOXEL,
    )
    for entry in run.sections:
        _stitched(run, entry.section, image, offsets[entry.section.z])
    for i, unit in enumerate(run.pairs):
        _matched(run, unit)
        figures = {"residual_px_p95": 0.4 + 0.1 * (i % 5)}
        mark(run, "align_pairs", unit, i, figures=figures)
    _volumes(run, frame, image, labels)
    return Run(run.spec)


def artefact_codes(image: np.ndarray) -> np.ndarray:
    """Codes of the volume: tissue where it is not 0, and a fold across section 5."""
    codes = np.where(image > 0, TISSUE, OUTSIDE).astype(np.uint8)
    codes[5, 96:128] = FOLD
    return codes


def described_run(root: Path) -> Run:
    """A finished run with all that a person may say of it, and a hostile instrument."""
    described = FinishParameters(title="A small volume", creators=("Lab of Examples",), license=LICENSE)
    return finished_run(root, finish=described, instrument=HOSTILE)


def mark(
    run: Run,
    step: str,
    unit: str,
    number: int,
    *,
    figures: dict[str, float] | None = None,
    status: str = "ok",
) -> None:
    """A done mark with times that do not depend on the clock."""
    cell = run.cell(step, unit)  # type: ignore[arg-type]
    document = Mark(
        unit=unit,
        status=status,
        seconds=1.0 + number / 10,
        started=1_780_000_000.0 + 10 * number,
        figures=figures or {},
    )
    cell.keep(document)


def _ingest(run: Run, image: np.ndarray, instrument: str, aligned: bool) -> None:
    sections = []
    for z in SECTIONS:
        tiles = []
        for row in range(2):
            for column in range(2):
                y, x = row * STEP[0], column * STEP[1]
                path = f"tiles/s{z:02d}_r{row}_c{column}.png"
                (run.acquisition_folder / "tiles").mkdir(parents=True, exist_ok=True)
                pixels = image[z, y : y + TILE[0], x : x + TILE[1]]
                Image.fromarray(pixels).save(run.acquisition_folder / path)
                tiles.append(
                    Tile(
                        row=row,
                        column=column,
                        path=path,
                        stage_yx_nm=(y * VOXEL[1], x * VOXEL[2]),
                        shape_yx=TILE,
                    )
                )
        sections.append(Section(z=z, tiles=tuple(tiles)))
    manifest = IngestManifest(
        acquisition=Acquisition(
            id="small",
            instrument=instrument,
            layout="plain",
            voxel_size_zyx_nm=VOXEL,
            aligned=aligned,
            sections=tuple(sections),
            missing_sections=(3,),
        ),
        sections=tuple(IngestedSection(section=s, fingerprint=f"f{s.z}") for s in sections),
        findings=(
            Finding(
                severity="warning",
                code="blank",
                subject="tiles/<script>alert(1)</script>.png",
                message="the tile is blank",
                remedy="acquire it again",
            ),
        ),
    )
    write_json(run.manifest_path, manifest.to_json())
    mark(run, "ingest", "all", 0)


def _stitched(run: Run, section: Section, image: np.ndarray, offset: np.ndarray) -> None:
    """A section moved by `offset` px and bent by up to 3 px; its transform undoes the move."""
    shape = SIZE
    tiles = tuple(
        TileTransform(
            tile_id=t.id,
            shape_yx=TILE,
            affine=((1.0, 0.0, t.row * STEP[0] + 0.0), (0.0, 1.0, t.column * STEP[1] + 0.0)),
        )
        for t in section.tiles
    )
    pairs = ((0, 1, (70.0, 135.0)), (2, 3, (180.0, 135.0)), (0, 2, (125.0, 60.0)), (1, 3, (125.0, 200.0)))
    seams = tuple(
        Seam(
            a=tiles[a].tile_id,
            b=tiles[b].tile_id,
            verdict="rejected" if section.z == 4 and i == 3 else "ok",
            residual_px=0.2,
            residual_px_p95=0.3 + 0.15 * i + 0.05 * section.z + (4.0 if section.z == 4 and i == 3 else 0),
            matches=40 - i,
            confidence=0.8,
            centre_yx=centre,
        )
        for i, (a, b, centre) in enumerate(pairs)
    )
    layout = SectionLayout(
        section=section.id,
        shape_yx=shape,
        tiles=tiles,
        seams=seams,
        residual_px_p95=seams[2].residual_px_p95,
        stage_origin_yx_px=(0.0, 0.0),
    )
    cell = run.cell("stitch", section.id)
    moved = np.roll(image[section.z], offset, axis=(0, 1))
    for name, plane in (("image", moved), ("mask", np.ones(SIZE, np.uint8))):
        ref = section_volume(run, section.id, name, shape)  # type: ignore[arg-type]
        Volume.create(run.work, ref).write(ref.box, plane[None])
    write_json(cell.file("layout.json"), layout.to_json())
    mark(run, "stitch", section.id, 1 + section.z)
    rng = np.random.default_rng(section.z)
    sheet = Sheet(spacing_px=80.0, coefficients=rng.normal(0, 1.5, (2, *sheet_shape(shape, 80.0))))
    affine = np.array([[1.0, 0.0, -offset[0]], [0.0, 1.0, -offset[1]]])
    save_transform(
        run, SectionTransform(section=section.id, shape_yx=shape, warp=Warp(affine=affine, sheet=sheet))
    )


def _matched(run: Run, unit: str) -> None:
    """Matches of a pair that agree with both transforms, to about 0.2 px."""
    a, b = (load_transform(run, entry.section.id) for entry in run.pairs[unit])
    axes = [np.arange(30.0, n - 30.0, 24.0) for n in SIZE]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    noise = np.random.default_rng(5).normal(0, 0.1, (2, *points.shape))
    write_arrays(
        run.cell("align_pairs", unit).file("match.npz"),
        {
            "a_yx": (a.inverse(points) + noise[0]).astype(np.float32),
            "b_yx": (b.inverse(points) + noise[1]).astype(np.float32),
            "peak": np.full(len(points), 0.7, np.float32),
        },
    )


def _volumes(run: Run, frame: VolumeRef, image: np.ndarray, labels: np.ndarray) -> None:
    work = run.work
    image = image.copy()
    labels = labels.copy()
    image[3], labels[3] = 0, 0
    ref = frame.model_copy(
        update={"path": run.cell("align_render").file("image.zarr").relative_to(work).as_posix()}
    )
    write_json(
        run.cell("align_solve").file("solution.json"),
        AlignedVolume(volume=ref, sections=tuple(range(8))).to_json(),
    )
    mark(run, "align_solve", "all", 30, figures={"align_residual_px_p95": 0.61})
    volume = Volume.create(work, ref)
    codes = artefact_codes(image)
    codes_ref = aligned_volume_ref(run.aligned, "artefacts")
    Volume.create(work, codes_ref).write(codes_ref.box, codes)
    for i, section in enumerate(run.sections):
        z = section.section.z
        volume.write(Box(offset_zyx=(z, 0, 0), shape_zyx=(1, *SIZE)), image[z : z + 1])
        share = float((codes[z] == FOLD).sum() / (codes[z] > 0).sum())
        mark(run, "align_render", section.section.id, 31 + i, figures={"fold_fraction": round(share, 4)})
    path = run.cell("relabel").file("labels.zarr").relative_to(work).as_posix()
    target = VolumeRef(
        path=path,
        kind="labels",
        shape_zyx=ref.shape_zyx,
        chunk_zyx=(8, 128, 128),
        dtype="uint32",
        voxel_size_zyx_nm=VOXEL,
    )
    Volume.create(work, target).write(target.box, labels)
    write_json(run.cell("relabel").file("labels.json"), target.to_json())
    for i, (step, unit) in enumerate(
        (("segment", "a"), ("segment", "b"), ("match", "a-b"), ("reconcile", "all"))
    ):
        mark(run, step, unit, 40 + i)
    mark(run, "relabel", "z00000_y00000_x00000", 50, figures={"voxels": float(target.box.voxels)})
