"""Tile images: what is read, and how each kind of bad file is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from functions.model.errors import AcquisitionError
from functions.store import images
from functions.store.images import TileReadError, read_tile, tile_header, tile_shape, write_tile

RNG = np.random.default_rng(7)
GRAY8 = RNG.integers(0, 256, (40, 56)).astype(np.uint8)
GRAY16 = RNG.integers(0, 65536, (40, 56)).astype(np.uint16)


@pytest.mark.parametrize("pixels", [GRAY8, GRAY16], ids=["uint8", "uint16"])
@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_lossless_formats_give_the_pixels_back(
    tmp_path: Path, suffix: str, pixels: images.TilePixels
) -> None:
    path = tmp_path / f"tile{suffix}"
    write_tile(path, pixels)
    read = read_tile(path)
    assert read.dtype == pixels.dtype
    assert np.array_equal(read, pixels)
    assert tile_shape(path) == (40, 56)


def test_written_bytes_are_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a.tif", "b.tif"):
        write_tile(tmp_path / name, GRAY8)
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize("compression", ["zlib", "lzw", "deflate"])
def test_compressed_and_big_endian_tiffs(tmp_path: Path, compression: str) -> None:
    path = tmp_path / "tile.tif"
    tifffile.imwrite(
        path, GRAY16, compression=compression, byteorder=">", rowsperstrip=7, photometric="minisblack"
    )
    read = read_tile(path)
    assert np.array_equal(read, GRAY16)
    assert read.dtype.isnative


def test_bigtiff_tiled_and_white_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "tile.tif"
    tifffile.imwrite(path, GRAY8, bigtiff=True, tile=(16, 16), photometric="miniswhite")
    assert np.array_equal(read_tile(path), 255 - GRAY8)


def test_jpeg_gray_and_colour_become_gray(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(64), np.arange(48)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "gray.jpg", quality=95)
    Image.fromarray(np.dstack([smooth] * 3)).save(tmp_path / "rgb.jpg", quality=95)
    for name in ("gray.jpg", "rgb.jpg"):
        read = read_tile(tmp_path / name)
        assert read.dtype == np.uint8
        assert np.abs(read.astype(int) - smooth).max() <= 3


def test_colour_tiff_becomes_gray_like_pillow(tmp_path: Path) -> None:
    colour = RNG.integers(0, 256, (20, 30, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "c.tif", colour, photometric="rgb")
    expected = np.asarray(Image.fromarray(colour).convert("L")).astype(int)
    assert np.abs(read_tile(tmp_path / "c.tif").astype(int) - expected).max() <= 1


def test_the_bytes_decide_not_the_name(tmp_path: Path) -> None:
    write_tile(tmp_path / "x.png", GRAY8)
    (tmp_path / "x.png").rename(tmp_path / "x.tif")
    assert np.array_equal(read_tile(tmp_path / "x.tif"), GRAY8)


@pytest.mark.parametrize("kind", ["tif", "strips.tif", "zlib.tif", "png", "jpg"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.95])
def test_truncated_files_name_the_file(tmp_path: Path, kind: str, part: float) -> None:
    path = tmp_path / f"tile.{kind}"
    if kind == "strips.tif":
        tifffile.imwrite(path, GRAY8, rowsperstrip=4)
    elif kind == "zlib.tif":
        tifffile.imwrite(path, GRAY8, compression="zlib", rowsperstrip=8)
    elif kind == "jpg":
        Image.fromarray(GRAY8).save(path)
    else:
        write_tile(path, GRAY8)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(TileReadError, match="tile") as caught:
        read_tile(path)
    assert str(path) in str(caught.value)
    assert caught.value.reason in ("truncated", "damaged")


@pytest.mark.parametrize("kind", ["png", "jpg", "tif"])
def test_headers_show_that_the_end_is_not_there(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"tile.{kind}"
    Image.fromarray(GRAY8).save(path)
    assert tile_shape(path) == (40, 56)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(TileReadError):
        tile_shape(path)


def test_missing_folder_and_foreign_files(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_text("hello, tile")
    Image.fromarray(GRAY8).save(tmp_path / "tile.gif")
    for name, reason in (
        ("none.tif", "missing"),
        (".", "missing"),
        ("text.tif", "format"),
        ("tile.gif", "format"),
    ):
        for read in (read_tile, tile_shape):
            with pytest.raises(AcquisitionError) as caught:
                read(tmp_path / name)
            assert isinstance(caught.value, TileReadError)
            assert caught.value.reason == reason


def test_planes_types_and_palettes_that_are_not_tiles(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "pages.tif", np.zeros((3, 20, 20), np.uint8), photometric="minisblack")
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((20, 20), np.float32))
    Image.fromarray(GRAY8).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(GRAY8).convert("P").save(tmp_path / "palette.tif")
    for name, what in (
        ("pages.tif", "3 pages"),
        ("float.tif", "float32"),
        ("palette.png", "mode P"),
        ("palette.tif", "colour palette"),
    ):
        with pytest.raises(TileReadError, match=what):
            read_tile(tmp_path / name)


def test_no_decompression_bombs(tmp_path: Path) -> None:
    """A PNG that claims 60,000 x 60,000 pixels, and a TIFF that does, are refused by their headers."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(60_000))))
    tifffile.imwrite(tmp_path / "bomb.tif", np.zeros((8, 8), np.uint8))
    with tifffile.TiffFile(tmp_path / "bomb.tif", mode="r+b") as tiff:
        for tag in ("ImageWidth", "ImageLength"):
            tiff.pages[0].tags[tag].overwrite(60_000)
    for bomb in (path, tmp_path / "bomb.tif"):
        for read in (read_tile, tile_header):
            with pytest.raises(TileReadError) as caught:
                read(bomb)
            assert caught.value.reason == "too_large"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("samples")
    write_tile(folder / "a.tif", GRAY8)
    write_tile(folder / "b.png", GRAY16)
    Image.fromarray(GRAY8).save(folder / "c.jpg")
    return [folder / name for name in ("a.tif", "b.png", "c.jpg")]


@given(
    which=st.integers(0, 2), flips=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=6)
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_damaged_bytes_give_pixels_or_an_acquisition_error(
    samples: list[Path], which: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(samples[which].read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    path = samples[which].with_name("damaged")
    path.write_bytes(bytes(data))
    try:
        pixels = read_tile(path)
    except AcquisitionError:
        return
    assert pixels.ndim == 2
    assert pixels.dtype in (np.uint8, np.uint16)
