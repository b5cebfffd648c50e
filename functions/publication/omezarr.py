"""OME-Zarr 0.5 (zarr v3): one image with its label images, as multiscale groups.

    volume.zarr/               image: attributes.ome.multiscales
        0, 1, 2 ...            sharded arrays, index at the start
        labels/                attributes.ome.labels = ["segmentation", "artefacts"]
            segmentation/      label image: attributes.ome.image-label
                0, 1, 2 ...
            supervoxels/       where objects were agglomerated: what they are made of
            artefacts/         label image; image-label.properties names its codes

Source: the OME-Zarr 0.5 specification. Positions are voxel centres: voxel i of a level with factor f lies at
`i * f * v + (f - 1) / 2 * v` nm, hence a scale and a translation for each level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import zarr

from functions.model.geometry import ZYX, Box
from functions.store.pyramid import Level, Pooling, Read, plan_levels, write_levels

LABELS = "segmentation"
SUPERVOXELS = "supervoxels"
ARTEFACTS = "artefacts"
CHUNK_ZYX: ZYX = (32, 128, 128)
SHARD_ZYX: ZYX = (64, 512, 512)
AXES = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]


def write_image(
    path: Path,
    *,
    read: Read,
    shape_zyx: ZYX,
    voxel_size_zyx_nm: tuple[float, float, float],
    name: str,
    chunk_zyx: ZYX = CHUNK_ZYX,
    shard_zyx: ZYX = SHARD_ZYX,
) -> list[Level]:
    """Write an image (uint8; z, y, x) as a new OME-Zarr group at `path`, levels pooled by mean.

    Args:
        read: returns a box of the image.
    """
    levels = plan_levels(shape_zyx, voxel_size_zyx_nm)
    _group(path, _multiscales(levels, voxel_size_zyx_nm, name=name, pooling="mean"))
    write_levels(
        path, levels, read=read, dtype="uint8", pooling="mean", chunk_zyx=chunk_zyx, shard_zyx=shard_zyx
    )
    return levels


def write_labels(
    image: Path,
    *,
    read: Read,
    shape_zyx: ZYX,
    dtype: str,
    voxel_size_zyx_nm: tuple[float, float, float],
    name: str = LABELS,
    pooling: Pooling = "mode",
    value_names: Sequence[str] = (),
    chunk_zyx: ZYX = CHUNK_ZYX,
    shard_zyx: ZYX = SHARD_ZYX,
) -> list[Level]:
    """Write labels into the image at `image`; on no level does an id appear that is not there.

    Args:
        value_names: what the labels 0, 1, ... mean, where they are codes.
    """
    levels = plan_levels(shape_zyx, voxel_size_zyx_nm)
    _list_labels(image / "labels", name)
    ome = _multiscales(levels, voxel_size_zyx_nm, name=name, pooling=pooling)
    ome["image-label"] = {"source": {"image": "../../"}}
    if value_names:
        properties = [{"label-value": value, "name": n} for value, n in enumerate(value_names)]
        ome["image-label"]["properties"] = properties
    _group(image / "labels" / name, ome)
    write_levels(
        image / "labels" / name,
        levels,
        read=read,
        dtype=dtype,
        pooling=pooling,
        chunk_zyx=chunk_zyx,
        shard_zyx=shard_zyx,
    )
    return levels


def create_level(
    path: Path,
    *,
    name: str,
    factor_zyx: ZYX,
    box: Box,
    voxel_size_zyx_nm: tuple[float, float, float],
) -> zarr.Array:
    """Create an OME-Zarr image at `path` with one array (uint8; z, y, x): a box of one level of a volume.

    Args:
        box: in voxels of the level.
        voxel_size_zyx_nm: of the volume's level 0.
    """
    level = Level(path="0", shape_zyx=box.shape_zyx, factor_zyx=factor_zyx, step_zyx=(1, 1, 1))
    ome = _multiscales([level], voxel_size_zyx_nm, name=name, pooling="mean")
    shift = ome["multiscales"][0]["datasets"][0]["coordinateTransformations"][1]["translation"]
    for axis, (o, f, v) in enumerate(zip(box.offset_zyx, factor_zyx, voxel_size_zyx_nm, strict=True)):
        shift[axis] += o * f * v
    _group(path, ome)
    return zarr.create_array(
        store=str(path / level.path),
        shape=box.shape_zyx,
        chunks=(1, min(512, box.shape_zyx[1]), min(512, box.shape_zyx[2])),
        dtype="uint8",
        fill_value=0,
        compressors=zarr.codecs.ZstdCodec(level=1),
        dimension_names=("z", "y", "x"),
    )


def _list_labels(path: Path, name: str) -> None:
    """Add a label image to the list of an image's labels."""
    if not path.exists():
        _group(path, {"version": "0.5", "labels": []})
    group = zarr.open_group(str(path), mode="r+")
    group.attrs["ome"] = {"version": "0.5", "labels": [*group.attrs["ome"]["labels"], name]}


def _group(path: Path, ome: dict[str, Any]) -> None:
    zarr.create_group(str(path), zarr_format=3, attributes={"ome": ome})


def _multiscales(
    levels: Iterable[Level], voxel_size_zyx_nm: tuple[float, float, float], *, name: str, pooling: Pooling
) -> dict[str, Any]:
    """The `ome` attribute of a multiscale group."""
    return {
        "version": "0.5",
        "multiscales": [
            {
                "name": name,
                "axes": AXES,
                "type": pooling,
                "datasets": [_dataset(level, voxel_size_zyx_nm) for level in levels],
            }
        ],
    }


def _dataset(level: Level, voxel_size_zyx_nm: tuple[float, float, float]) -> dict[str, Any]:
    pairs = list(zip(level.factor_zyx, voxel_size_zyx_nm, strict=True))
    return {
        "path": level.path,
        "coordinateTransformations": [
            {"type": "scale", "scale": [f * v for f, v in pairs]},
            {"type": "translation", "translation": [(f - 1) / 2 * v for f, v in pairs]},
        ],
    }
