"""Sections compared window by window: the same matches, whatever the windows; and memory that they bound."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from functions.model.parameters import AlignParameters
from functions.model.regions import LINE, Regions
from functions.needs import MIB, WINDOW_BYTES, WINDOW_MIB
from functions.registration.masks import reduce_mean
from functions.registration.planes import Reduced, RegionMask, hold
from functions.registration.sections import PairMatch, register_sections
from functions.store.limits import process_memory, within
from tests.functions.registration_scenes import scene
from tests.functions.test_budget import linux, require_near

Gray = NDArray[np.uint8]
MOVED_YX = (9, 5)


def two_sections(side: int) -> tuple[Gray, Gray]:
    """A large scene, and the same moved by 9 and 5 px."""
    small = scene((side // 4 + 20, side // 4 + 20))
    plane = ndimage.gaussian_filter(ndimage.zoom(small, 4, order=1), 1.0).clip(1, 255).astype(np.uint8)
    y, x = MOVED_YX
    return plane[:side, :side].copy(), plane[y : y + side, x : x + side].copy()


def register(side: int, window_px: int, regions: Regions | None = None) -> PairMatch:
    a, b = two_sections(side)
    whole = np.ones(a.shape, dtype=np.bool_)
    return register_sections(a, whole, b, whole, AlignParameters(window_px=window_px), regions_b=regions)


def halves(side: int) -> Regions:
    labels = np.zeros((side // 8, side // 8), dtype=np.int16)
    labels[:, side // 16], labels[:, side // 16 + 1 :] = LINE, 1
    return Regions(labels=labels)


@pytest.mark.parametrize("parted", [False, True])
def test_matches_do_not_depend_on_windows(parted: bool) -> None:
    regions = halves(640) if parted else None
    whole, parts = (register(640, window, regions) for window in (2048, 256))
    assert whole.good
    assert len(whole.matches) == len(parts.matches)
    assert whole.tried == parts.tried
    np.testing.assert_allclose(parts.matches.a_yx, whole.matches.a_yx, atol=1e-6)
    np.testing.assert_allclose(parts.matches.b_yx, whole.matches.b_yx, atol=0.01)
    np.testing.assert_allclose(parts.affine, whole.affine, atol=1e-3)
    off = whole.matches.b_yx - whole.matches.a_yx + MOVED_YX
    assert np.median(np.linalg.norm(off, axis=1)) < 0.1


def taken_by_a_pair(side: int, window_px: int) -> float:
    """MiB that comparing two sections takes in a fresh process, beyond the sections themselves."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_taken_by_a_pair, (side, window_px))


def _taken_by_a_pair(side: int, window_px: int) -> float:
    register(300, 256)  # what is loaded on first need
    a, b = two_sections(side)
    whole = np.ones(a.shape, dtype=np.bool_)
    with within(None, subject="measured") as use:  # the peak begins anew: making the sections took more
        before = process_memory()
        found = register_sections(a, whole, b, whole, AlignParameters(window_px=window_px))
    assert found.good
    assert before is not None
    return use.peak_mib - before.resident / MIB


@linux
@pytest.mark.slow
def test_memory_goes_with_the_window_and_not_with_the_section() -> None:
    """Sections of 2048 px hold 16 windows of 512 px, those of 4096 px 64."""
    whole, parts, large = (taken_by_a_pair(*asked) for asked in ((2048, 2048), (2048, 512), (4096, 512)))
    assert whole > 1.7 * max(parts, large)
    for window_px, taken in ((2048, whole), (512, parts), (512, large)):
        require_near(WINDOW_MIB + WINDOW_BYTES * window_px**2 / MIB, taken)


class Strips:
    """A plane that tells how many pixels were read at once, at most."""

    def __init__(self, pixels: Gray) -> None:
        self.pixels, self.shape, self.dtype, self.most = pixels, pixels.shape, pixels.dtype, 0

    def __getitem__(self, box: tuple[slice, slice], /) -> Gray:
        part = self.pixels[box]
        self.most = max(self.most, part.size)
        return part


@pytest.fixture
def pixels() -> Gray:
    return np.random.default_rng(0).integers(0, 255, (203, 117), dtype=np.uint8)


def test_reduced_planes_are_what_arrays_reduce_to(pixels: Gray) -> None:
    source = Strips(pixels)
    planes = [Reduced(source=source, factor=f, is_mask=False) for f in (4, 2)]
    held = hold(planes, 117 * 8)
    assert source.most <= 117 * 8
    for plane, array in zip(planes, held, strict=True):
        wanted = reduce_mean(pixels, plane.factor)
        np.testing.assert_array_equal(array, wanted)
        np.testing.assert_array_equal(plane[7:31, 3:22], wanted[7:31, 3:22])
        assert plane.shape == wanted.shape


def test_a_region_of_a_mask_is_read_box_by_box() -> None:
    regions = halves(128)
    mask = np.ones((64, 64), dtype=np.bool_)
    plane = RegionMask(mask=mask, regions=regions, region=1, factor=2)
    assert not plane[:, :36].any(), "the line ends at cell 9, 36 px at half resolution"
    assert plane[5:9, 36:].all()
