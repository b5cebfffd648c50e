"""Gather and scatter in C do what `Canvas` does, whatever numbers they meet."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from ffn.canvas import Canvas, Thresholds
from ffn.config import InferenceConfig, Triple
from ffn.faces import least_count
from ffn.native import build
from ffn.native.windows import NativeWindows

CPU = torch.device("cpu")
SHAPE: Triple = (9, 12, 40)
FOVS: list[Triple] = [(3, 5, 7), (1, 1, 1), (3, 3, 33)]  # the last longer than two vectors
ODD = np.array([np.nan, 0.0, -0.0, np.inf, -np.inf, 1e-40, -1e-40, 1.0, -1.0], np.float32)

needs_compiler = pytest.mark.skipif(build.compiler() is None, reason="no C compiler here")


def values(random: np.random.Generator, shape: tuple[int, ...], odd: float) -> NDArray[np.float32]:
    """Logits with few levels, so that many tie, and a share of odd ones."""
    plain = random.integers(-3, 4, shape).astype(np.float32)
    return np.where(random.random(shape) < odd, random.choice(ODD, shape), plain).astype(np.float32)


def canvas_of(belief: NDArray[np.float32], fov: Triple, disco: float | None) -> Canvas:
    thresholds = Thresholds.of(InferenceConfig(disco_seed_threshold=disco))
    canvas = Canvas(belief.copy(), fov_zyx=fov, thresholds=thresholds)
    canvas.belief[:] = belief
    return canvas


def corners(random: np.random.Generator, fov: Triple, count: int) -> NDArray[np.int64]:
    return np.stack([random.integers(0, n - f + 1, count) for n, f in zip(SHAPE, fov, strict=True)], axis=1)


@needs_compiler
@pytest.mark.parametrize("fov", FOVS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), odd=st.sampled_from([0.0, 0.3]), disco=st.sampled_from([0.0, 0.3, None])
)
def test_three_rows_are_what_a_canvas_does_one_by_one(
    fov: Triple, seed: int, odd: float, disco: float | None
) -> None:
    random = np.random.default_rng(seed)
    canvas = canvas_of(values(random, SHAPE, odd), fov, disco)
    windows = NativeWindows(fov, plane=SHAPE[1] * SHAPE[2], line=SHAPE[2])
    flat = torch.from_numpy(canvas.belief.reshape(-1).copy())
    places = corners(random, fov, 3)  # they may overlap
    table = torch.from_numpy(np.ravel_multi_index(list(places.T), SHAPE))[:, None].repeat(1, 2)
    at, centres = table[:, 1], [(p + canvas.margin_zyx).tolist() for p in places]
    for layout in (torch.contiguous_format, torch.channels_last_3d):
        seen = torch.zeros((3, 2, *fov)).contiguous(memory_format=layout)
        windows.gather(flat, at, seen[:, 0], unseen=float("nan"))
        windows.gather(flat, at, seen[:, 1], unseen=canvas.thresholds.pad)
        for row, (z, y, x) in zip(seen.numpy(), centres, strict=True):
            as_it_is, belief = canvas.gather((z, y, x))
            np.testing.assert_array_equal(row[0], as_it_is)
            np.testing.assert_array_equal(row[1], belief)
    answers = values(random, (3, *fov), odd)
    written = torch.zeros(answers.shape)
    least = least_count(disco, int(np.prod(fov)))
    windows.scatter(flat, at, torch.from_numpy(answers), written, move=canvas.thresholds.move, least=least)
    for (z, y, x), answer, row in zip(centres, answers, written.numpy(), strict=True):
        assert canvas.scatter((z, y, x), answer).tobytes() == row.tobytes()  # the sign of zero, too
    assert canvas.belief.tobytes() == flat.numpy().tobytes()


@needs_compiler
def test_the_rule_begins_at_the_least_count() -> None:
    """Of four voxels two are at the threshold; a voxel once found outside rises or does not."""
    fov: Triple = (1, 1, 4)
    windows = NativeWindows(fov, plane=4, line=4)
    answers = torch.tensor([2.0, 1.0, -1.0, -4.0]).reshape(1, *fov)
    for least, expected in ((2, -3.0), (3, -1.0), (None, -1.0), (0, -3.0)):
        flat = torch.tensor([float("nan"), 0.5, -3.0, -3.0])
        windows.scatter(flat, torch.tensor([0]), answers, torch.zeros_like(answers), move=1.0, least=least)
        assert flat.tolist() == [2.0, 1.0, expected, -4.0]


def test_accelerators_and_machines_without_a_compiler_have_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert NativeWindows.where_possible(torch.device("cuda"), FOVS[0], plane=4, line=2) is None
    monkeypatch.setenv("CC", "no-such-compiler")
    build.windows_library.cache_clear()
    assert NativeWindows.where_possible(CPU, FOVS[0], plane=4, line=2) is None
