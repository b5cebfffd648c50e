"""Solved geometry in the run directory: layouts of sections, transforms of the stack, stitched images."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from functions.model.base import Document
from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.model.regions import Regions
from functions.model.transform import CutSheet, SectionLayout, SectionTransform, Sheet, Warp
from functions.model.volume import VolumeRef
from functions.store.files import reading_arrays, write_bytes, write_json
from functions.store.run import AlignedVolume, Run
from functions.store.traffic import note_read, note_written
from functions.store.volumes import Volume

CHUNK_PX = 512
Kind = Literal["image", "mask"]
KINDS: tuple[Kind, Kind] = ("image", "mask")
AlignedKind = Literal["image", "mask", "artefacts"]
ALIGNED_KINDS: tuple[AlignedKind, AlignedKind, AlignedKind] = ("image", "mask", "artefacts")
"""Arrays of the aligned volume; `artefacts` are codes of `functions.model.artefacts`, 0 where `mask` is."""


class TransformHeader(Document):
    """`transforms/<section id>.json`: what is small of a section's transform; the sheet lies beside it
    as npz."""

    format: Literal["petavoxel-transform-1"] = "petavoxel-transform-1"
    section: str
    shape_yx: tuple[int, int]
    affine: tuple[tuple[float, float, float], tuple[float, float, float]]
    sheet: str | None = None
    """File name of the sheet: `coefficients` (2, gy, gx) and `spacing_px`."""
    cut: bool = False
    """Folds or cracks part the section: `coefficients` is (K, 2, gy, gx), and `regions` holds the region
    0..K-1 of each cell of 8 px, -1 on a line."""
    placed: Literal["matched", "interpolated", "identity"] = "matched"


def write_arrays(path: Path, arrays: dict[str, NDArray[np.generic]]) -> None:
    """Write an npz without time stamps: equal arrays give equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(arrays[name]), allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED, 1)
    write_bytes(path, buffer.getvalue())
    note_written(stored=buffer.tell(), raw=sum(array.nbytes for array in arrays.values()))


def read_arrays(path: Path, *names: str) -> tuple[NDArray[np.generic], ...]:
    """Named arrays of an npz.

    Raises:
        VolumeError: the file is missing or damaged, or has no such array.
    """
    with reading_arrays(path), np.load(path, allow_pickle=False) as archive:
        arrays = tuple(np.asarray(archive[name]) for name in names)
    note_read(stored=path.stat().st_size, raw=sum(array.nbytes for array in arrays))
    return arrays


def _read_text(path: Path, step: str) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise VolumeError(f"{path}: missing", remedy=f"run the step {step} first") from None


def load_layout(run: Run, section_id: str) -> SectionLayout:
    """The layout of a stitched section; `.place(tile_id, points_yx)` maps tile px to section px.

    Raises:
        VolumeError: the section is not stitched.
    """
    path = run.cell("stitch", section_id).file("layout.json")
    return SectionLayout.parse(_read_text(path, "stitch"), source=str(path))


def save_transform(run: Run, transform: SectionTransform) -> None:
    """Write a section's transform into the cell of align_solve."""
    write_transform(run.cell("align_solve").file("transforms"), transform)


def write_transform(folder: Path, transform: SectionTransform) -> None:
    """Write a section's transform into a folder; the header last."""
    sheet = transform.warp.sheet
    name = None
    if sheet is not None:
        name = f"{transform.section}.npz"
        write_arrays(folder / name, _sheet_arrays(sheet))
    rows = transform.warp.affine.tolist()
    header = TransformHeader(
        section=transform.section,
        shape_yx=transform.shape_yx,
        affine=(tuple(rows[0]), tuple(rows[1])),
        sheet=name,
        cut=isinstance(sheet, CutSheet),
        placed=transform.placed,
    )
    write_json(folder / f"{transform.section}.json", header.to_json())


def load_transform(run: Run, section_id: str) -> SectionTransform:
    """Where a section lies in the aligned volume: `.apply`, `.inverse`, `.displacement_grid`.

    Raises:
        VolumeError: the stack is not solved.
    """
    return read_transform(run.cell("align_solve").file("transforms"), section_id)


def read_transform(folder: Path, section_id: str) -> SectionTransform:
    """The transform of a section that `write_transform` wrote.

    Raises:
        VolumeError: it is missing or damaged.
    """
    path = folder / f"{section_id}.json"
    header = TransformHeader.parse(_read_text(path, "align_solve"), source=str(path))
    sheet = None if header.sheet is None else _read_sheet(folder / header.sheet, cut=header.cut)
    warp = Warp(affine=np.asarray(header.affine, dtype=np.float64), sheet=sheet)
    return SectionTransform(section=header.section, shape_yx=header.shape_yx, warp=warp, placed=header.placed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedSolution:
    """An earlier solution whose sections stay: the frame of its volume, and its transforms by section id."""

    frame: AlignedVolume
    transforms: dict[str, SectionTransform]


def load_locked(run: Run) -> LockedSolution | None:
    """The solution named by `align.locked_solution`, without its last `align.unlocked_sections`; None where
    nothing is locked.

    Raises:
        UpstreamError: there is no such solution.
        VolumeError: it is damaged.
    """
    folder = run.locked_folder
    if folder is None:
        return None
    path = folder / "solution.json"
    frame = AlignedVolume.parse(_read_text(path, "align_solve"), source=str(path))
    names = sorted(p.stem for p in (folder / "transforms").glob("*.json"))
    if free := run.parameters.align.unlocked_sections:
        names = names[:-free]
    if not names:
        return None
    transforms = {name: read_transform(folder / "transforms", name) for name in names}
    return LockedSolution(frame=frame, transforms=transforms)


def _sheet_arrays(sheet: Sheet | CutSheet) -> dict[str, NDArray[np.generic]]:
    arrays: dict[str, NDArray[np.generic]] = {
        "coefficients": sheet.coefficients,
        "spacing_px": np.array(sheet.spacing_px),
    }
    return {**arrays, "regions": sheet.regions.labels} if isinstance(sheet, CutSheet) else arrays


def _read_sheet(path: Path, *, cut: bool) -> Sheet | CutSheet:
    names = ("coefficients", "spacing_px", *(("regions",) if cut else ()))
    coefficients, spacing, *rest = read_arrays(path, *names)
    values = coefficients.astype(np.float64)
    if not cut:
        return Sheet(spacing_px=float(spacing.item()), coefficients=values)
    regions = Regions(labels=rest[0].astype(np.int16))
    return CutSheet(spacing_px=float(spacing.item()), coefficients=values, regions=regions)


def section_volume(run: Run, section_id: str, name: Kind, shape_yx: tuple[int, int]) -> VolumeRef:
    """Name of a stitched section's image or mask, (1, Y, X) uint8."""
    path = run.cell("stitch", section_id).file(f"{name}.zarr").relative_to(run.work)
    return VolumeRef(
        path=path.as_posix(),
        kind=name,
        shape_zyx=(1, *shape_yx),
        chunk_zyx=(1, min(CHUNK_PX, shape_yx[0]), min(CHUNK_PX, shape_yx[1])),
        dtype="uint8",
        voxel_size_zyx_nm=run.manifest.acquisition.voxel_size_zyx_nm,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionPlane:
    """Image or mask of a stitched section (Y, X), read box by box: `plane[rows, columns]`."""

    volume: Volume
    is_mask: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """Height and width."""
        return self.volume.ref.shape_zyx[1:]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Of what is read."""
        return np.dtype(np.bool_ if self.is_mask else np.uint8)

    def __getitem__(self, box: tuple[slice, slice], /) -> NDArray[np.generic]:
        (top, bottom, _), (left, right, _) = (s.indices(n) for s, n in zip(box, self.shape, strict=True))
        part = self.volume.read(Box(offset_zyx=(0, top, left), shape_zyx=(1, bottom - top, right - left)))[0]
        return np.asarray(part > 0 if self.is_mask else part)


def open_section(run: Run, layout: SectionLayout) -> tuple[SectionPlane, SectionPlane]:
    """Image and mask of a stitched section, to be read box by box."""
    image, mask = (
        SectionPlane(
            volume=Volume.open(run.work, section_volume(run, layout.section, kind, layout.shape_yx)),
            is_mask=kind == "mask",
        )
        for kind in KINDS
    )
    return image, mask


def aligned_volume_ref(aligned: AlignedVolume, kind: AlignedKind) -> VolumeRef:
    """The image (as in `solution.json`) or, beside it, mask or artefact codes of the aligned volume."""
    if kind == "image":
        return aligned.volume
    path = aligned.volume.path.removesuffix("image.zarr") + f"{kind}.zarr"
    return aligned.volume.model_copy(update={"path": path, "kind": kind})
