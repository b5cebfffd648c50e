"""The bundle's list of files with their checksums: written last, checked before anything leaves the site."""

from __future__ import annotations

from pathlib import Path

import zarr

from functions.model.errors import VolumeError
from functions.publication.omezarr import ARTEFACTS, LABELS
from functions.store.files import sha256_file, write_bytes

MANIFEST = "manifest-sha256.txt"
VOLUME = "volume.zarr"
TRANSFORMS = "transforms"
GATE = "registration_gate.json"
SECTIONS = "sections.json"
EDGES = "edges.csv"
"""Not a document of every bundle: only where objects were agglomerated."""
DOCUMENTS = ("neuroglancer.json", GATE, "report.html", "ro-crate-metadata.json", "search.json", SECTIONS)
REMEDY = "remove the finish cell and run finish again"


def write_manifest(bundle: Path) -> None:
    """Write one line a file, as `sha256sum` does and reads: checksum, two spaces, path; sorted by path."""
    lines = [f"{sha256_file(path)}  {name}\n" for name, path in sorted(_files(bundle).items())]
    write_bytes(bundle / MANIFEST, "".join(lines).encode())


def read_manifest(bundle: Path) -> dict[str, str]:
    """Checksums by path.

    Raises:
        VolumeError: there is no manifest, or a line of it does not parse.
    """
    try:
        text = (bundle / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise VolumeError(f"{bundle}: no {MANIFEST}", remedy="run finish first") from None
    listed: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        checksum, separator, name = line.partition("  ")
        if len(checksum) != 64 or not separator or not name:
            raise VolumeError(f"{bundle / MANIFEST}: line {number} does not parse", remedy=REMEDY)
        listed[name] = checksum
    return listed


def verify(bundle: Path) -> dict[str, str]:
    """Check that exactly the listed files are there, each with its checksum; return the list.

    Raises:
        VolumeError: naming the first file that is missing, unlisted or different.
    """
    listed, found = read_manifest(bundle), _files(bundle)
    for name in (*DOCUMENTS, f"{VOLUME}/zarr.json"):
        if name not in listed:
            raise VolumeError(f"{bundle / MANIFEST}: {name} is not listed", remedy=REMEDY)
    for name in sorted(listed.keys() ^ found.keys()):
        what = "is missing" if name in listed else f"is not in {MANIFEST}"
        raise VolumeError(f"{bundle / name}: {what}", remedy=REMEDY)
    for name, path in sorted(found.items()):
        if sha256_file(path) != listed[name]:
            raise VolumeError(f"{bundle / name}: checksum differs from {MANIFEST}", remedy=REMEDY)
    return listed


def open_levels(bundle: Path) -> dict[str, list[zarr.Array]]:
    """Open every level of image, labels and artefacts and read a voxel of each.

    Raises:
        VolumeError: an array does not open, or one differs from the image in shape.
    """
    levels: dict[str, list[zarr.Array]] = {}
    beside = {"labels": LABELS, "artefacts": ARTEFACTS}
    paths = {name: bundle / VOLUME / "labels" / folder for name, folder in beside.items()}
    for name, path in {"image": bundle / VOLUME, **paths}.items():
        try:
            group = zarr.open_group(str(path), mode="r")
            datasets = group.attrs["ome"]["multiscales"][0]["datasets"]
            levels[name] = [group[dataset["path"]] for dataset in datasets]
            for array in levels[name]:
                array[tuple(n // 2 for n in array.shape)]
        except (KeyError, ValueError, RuntimeError, OSError, TypeError) as error:
            raise VolumeError(f"{path}: does not open ({error})", remedy=REMEDY) from None
    shapes = {name: [array.shape for array in arrays] for name, arrays in levels.items()}
    if any(shape != shapes["image"] for shape in shapes.values()):
        raise VolumeError(f"{bundle / VOLUME}: shapes of its arrays differ: {shapes}", remedy=REMEDY)
    return levels


def _files(bundle: Path) -> dict[str, Path]:
    """Files of the bundle by relative path, without the manifest."""
    paths = {str(p.relative_to(bundle).as_posix()): p for p in bundle.rglob("*") if not p.is_dir()}
    return {name: path for name, path in paths.items() if name != MANIFEST}
