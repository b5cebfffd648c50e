"""Tile images: TIFF, PNG, JPEG and BMP files of one gray plane, and planes of MRC stacks; read whole or
refused with a reason."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from functions.model.errors import AcquisitionError, is_of_the_site
from functions.store.files import atomic_path, sha256_file
from functions.store.mrc import MrcError, MrcHeader, is_mrc, read_header, read_plane
from functions.store.traffic import note_read

MAX_TILE_PIXELS = 2**29
"""Largest tile that is decoded (e.g. 23,170 x 23,170): a small file must not unpack into all memory."""

Image.MAX_IMAGE_PIXELS = MAX_TILE_PIXELS

TilePixels = NDArray[np.uint8] | NDArray[np.uint16]
Reason = Literal["missing", "truncated", "format", "damaged", "too_large"]

MAGIC: dict[bytes, str] = {
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
    b"BM": "BMP",
}
OF_A_TILE = (errno.EACCES, errno.EPERM)
"""A site's errors that may be those of a single tile all the same."""
END_MARKS = {"PNG": b"IEND", "JPEG": b"\xff\xd9"}
TAIL_BYTES = 4096
GRAY_WEIGHTS = np.array([299, 587, 114], dtype=np.uint32)  # ITU-R BT.601, as Pillow's convert("L")
MINISWHITE, PALETTE = 0, 3
REMEDIES: dict[Reason, str] = {
    "missing": "transfer the file again or correct the path",
    "truncated": "transfer the file again",
    "format": "write tiles as one 8- or 16-bit gray plane in TIFF, PNG, JPEG, BMP or MRC",
    "damaged": "transfer the file again",
    "too_large": f"write tiles of at most {MAX_TILE_PIXELS} pixels",
}


class TileReadError(AcquisitionError):
    """A tile image cannot be used; `reason` is the code under which ingest lists it."""

    code = "tile"

    def __init__(self, path: Path, reason: Reason, what: str) -> None:
        super().__init__(f"{path}: {what}", remedy=REMEDIES[reason])
        self.reason: Reason = reason
        self.what = what


@dataclass(frozen=True, slots=True, kw_only=True)
class TileHeader:
    """What a tile file says about itself without its pixels being decoded."""

    format: str
    shape_yx: tuple[int, int]


def read_tile(path: Path, plane: int | None = None) -> TilePixels:
    """Pixels of a tile, (y, x), uint8 or uint16; colour becomes gray, black is 0.

    `plane` is that of an MRC stack; its rows come from the top down, and its negative values become 0.

    Raises:
        TileReadError: an AcquisitionError that names the file and what is wrong: missing, truncated, another
            format, damaged, or more than `MAX_TILE_PIXELS` pixels.
    """
    kind = _format(path)
    with _reading(path):
        if plane is not None or kind == "MRC":
            pixels = read_plane(path, _mrc_header(path, plane or 0), plane or 0)
            note_read(stored=pixels.nbytes, raw=pixels.nbytes)
        else:
            pixels = _read_tiff(path) if kind == "TIFF" else _read_picture(path, kind)
            note_read(stored=path.stat().st_size, raw=pixels.nbytes)
        return pixels


def tile_sha256(path: Path, plane: int | None = None) -> str:
    """SHA-256 of a tile's file; of a plane of a stack, which may grow, of its shape and pixels."""
    if plane is None:
        return sha256_file(path)
    pixels = read_tile(path, plane)
    return hashlib.sha256(str((pixels.shape, str(pixels.dtype))).encode() + pixels.tobytes()).hexdigest()


def tile_header(path: Path, plane: int | None = None) -> TileHeader:
    """Format and shape of a tile from its header; also refuses a file whose end is not there.

    Raises:
        TileReadError: as `read_tile`, as far as the header shows it.
    """
    kind = _format(path)
    with _reading(path):
        if plane is not None or kind == "MRC":
            return TileHeader(format="MRC", shape_yx=_mrc_header(path, plane or 0).shape_yx)
        if kind == "TIFF":
            with tifffile.TiffFile(path) as tiff:
                page = _checked_page(path, tiff)
                return TileHeader(format=kind, shape_yx=(page.shape[0], page.shape[1]))
        with Image.open(path, formats=[kind]) as picture:
            _check_size(path, picture.height, picture.width)
            _check_end(path, kind)
            return TileHeader(format=kind, shape_yx=(picture.height, picture.width))


def tile_shape(path: Path) -> tuple[int, int]:
    """(y, x) extent of a tile in pixels, from its header.

    Raises:
        TileReadError: as `tile_header`.
    """
    return tile_header(path).shape_yx


def write_tile(path: Path, pixels: TilePixels) -> None:
    """Write a tile as TIFF or PNG (by suffix), atomically and with the same bytes each time."""
    with atomic_path(path) as partial, open(partial, "wb") as handle:
        if path.suffix.lower() == ".png":
            Image.fromarray(pixels).save(handle, format="PNG", compress_level=1)
        else:
            tifffile.imwrite(handle, pixels, photometric="minisblack", metadata=None, software=False)


def _format(path: Path) -> str:
    """The format that the first bytes say; names lie."""
    try:
        with open(path, "rb") as handle:
            head = handle.read(8)
    except FileNotFoundError:
        raise TileReadError(path, "missing", "no such file") from None
    except OSError as error:
        if is_of_the_site(error) and error.errno not in OF_A_TILE:
            raise
        raise TileReadError(path, "missing", f"cannot be opened ({error.strerror})") from None
    if not head:
        raise TileReadError(path, "truncated", "the file is empty")
    for magic, kind in MAGIC.items():
        if head.startswith(magic):
            return kind
    if is_mrc(path):
        return "MRC"
    raise TileReadError(path, "format", f"not a TIFF, PNG, JPEG, BMP or MRC file (starts with {head[:4]!r})")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged bytes (it may be anything) into one error."""
    try:
        yield
    except (TileReadError, MemoryError):
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise TileReadError(path, "too_large", f"more than {MAX_TILE_PIXELS} pixels") from None
    except Exception as error:
        if is_of_the_site(error):
            raise
        text = f"{type(error).__name__}: {error}".splitlines()[0][:160]
        reason: Reason = "truncated" if "truncated" in text.lower() else "damaged"
        raise TileReadError(path, reason, f"cannot be decoded ({text})") from None


def _check_size(path: Path, height: int, width: int) -> None:
    if height * width > MAX_TILE_PIXELS:
        raise TileReadError(path, "too_large", f"{height} x {width} px, more than {MAX_TILE_PIXELS} pixels")


def _mrc_header(path: Path, plane: int) -> MrcHeader:
    """The header of a stack, once the whole plane is known to be in the file."""
    try:
        header = read_header(path)
    except MrcError as error:
        raise TileReadError(path, "format", str(error)) from None
    _check_size(path, *header.shape_yx)
    if plane >= header.planes:
        raise TileReadError(path, "missing", f"plane {plane} of {header.planes}")
    size = path.stat().st_size
    if header.plane_end(plane) > size:
        end = header.plane_end(plane)
        raise TileReadError(path, "truncated", f"plane {plane} ends at byte {end}, the file at {size}")
    return header


def _check_end(path: Path, kind: str) -> None:
    """Look for the end mark of a PNG or JPEG, some writers pad behind it; a BMP says how long it is."""
    with open(path, "rb") as handle:
        if kind == "BMP":
            stated, size = int.from_bytes(handle.read(6)[2:], "little"), path.stat().st_size
            if stated > size:
                raise TileReadError(path, "truncated", f"{size} of {stated} bytes")
            return
        handle.seek(max(0, path.stat().st_size - TAIL_BYTES))
        if END_MARKS[kind] not in handle.read():
            raise TileReadError(path, "truncated", f"the {kind} end mark is not there")


def _checked_page(path: Path, tiff: tifffile.TiffFile) -> Any:
    """The only page of a TIFF, once its shape, type and the place of all its data have been checked."""
    if not len(tiff.pages):
        raise TileReadError(path, "truncated", "the TIFF has no page")
    if len(tiff.pages) > 1:
        raise TileReadError(path, "format", f"{len(tiff.pages)} pages where one plane is expected")
    page = tiff.pages[0]
    colour = page.ndim == 3 and page.shape[2] in (3, 4) and page.dtype == np.uint8
    if (page.ndim != 2 and not colour) or 0 in page.shape:
        raise TileReadError(path, "format", f"shape {page.shape} is not one plane")
    if page.dtype not in (np.uint8, np.uint16):
        raise TileReadError(path, "format", f"pixels are {page.dtype}, expected uint8 or uint16")
    if int(page.photometric) == PALETTE:
        raise TileReadError(path, "format", "pixels are indices of a colour palette, expected gray")
    _check_size(path, page.shape[0], page.shape[1])
    # tifffile fills what is not there with zeros, so look before decoding
    size = path.stat().st_size
    if not page.dataoffsets:
        raise TileReadError(path, "truncated", "the TIFF does not say where its pixel data are")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        if count == 0 or offset + count > size:
            raise TileReadError(
                path, "truncated", f"pixel data end at byte {offset + count}, the file at {size}"
            )
    return page


def _read_tiff(path: Path) -> TilePixels:
    with tifffile.TiffFile(path) as tiff:
        page = _checked_page(path, tiff)
        # one thread: the caller decides how many tiles are read at a time
        pixels = np.asarray(page.asarray(maxworkers=1))
        if pixels.shape != page.shape:
            raise TileReadError(path, "damaged", f"decodes to shape {pixels.shape}, header says {page.shape}")
        inverted = int(page.photometric) == MINISWHITE
    if pixels.ndim == 3:
        pixels = ((pixels[..., :3] @ GRAY_WEIGHTS + 500) // 1000).astype(np.uint8)
    if inverted:
        pixels = np.iinfo(pixels.dtype).max - pixels
    return np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("="), copy=False))


def _read_picture(path: Path, kind: str) -> TilePixels:
    with Image.open(path, formats=[kind]) as picture:
        _check_size(path, picture.height, picture.width)
        picture.load()
        mode = picture.mode
        if mode in ("RGB", "RGBA", "LA"):
            return np.array(picture.convert("L"))
        pixels = np.array(picture)
    if mode == "L":
        return pixels
    if mode.startswith("I") and pixels.min(initial=0) >= 0 and pixels.max(initial=0) <= 65535:
        return pixels.astype(np.uint16)
    raise TileReadError(path, "format", f"pixels are of mode {mode}, expected 8- or 16-bit gray")
