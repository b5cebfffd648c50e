"""The benchmark of memory in small: steps stay within their budget, and say so."""

from pathlib import Path

import pytest

from functions.tasks import STEPS
from tests.benchmarks.memory import measure, scenes
from tests.benchmarks.memory_data import Scene

BUDGET_GIB = 0.5


def test_two_steps_stay_within_their_budget_and_tell_their_bytes(tmp_path: Path) -> None:
    scene = Scene(sections=2, shape_yx=(700, 600))
    found = measure(scene, tmp_path, memory_gib=BUDGET_GIB, steps=("ingest", "stitch"))
    ingest, stitch = found["steps"]  # type: ignore[misc]
    assert found["within"]
    assert 150 < ingest["peak_mib"] <= 512
    assert stitch["read_bytes_per_voxel"] == pytest.approx(
        2.0, abs=0.1
    )  # for its checksum, and for its pixels
    assert 0.01 < stitch["written_bytes_per_voxel"] < 1.0


def test_scenes_are_as_many_times_the_budget_as_asked_for() -> None:
    for scene in scenes(0.5, 4.0, 4096).values():
        assert scene.bytes == 2 * 2**30


@pytest.mark.slow
@pytest.mark.parametrize("tile_px", [None, 512])
def test_every_step_stays_within_its_budget(tmp_path: Path, tile_px: int | None) -> None:
    scene = Scene(sections=66 if tile_px is None else 3, shape_yx=(640, 640), tile_px=tile_px)
    steps = STEPS if tile_px is None else STEPS[: STEPS.index("segment")]
    found = measure(scene, tmp_path, memory_gib=BUDGET_GIB, steps=steps)
    assert found["within"], found
    units = {step["step"]: step["units"] for step in found["steps"]}  # type: ignore[union-attr]
    assert list(units) == list(steps)
    idle = {step for step, count in units.items() if count == 0}  # pairs of objects are flooded, too
    assert idle == ({"align_pairs"} if tile_px is None else set()), units
