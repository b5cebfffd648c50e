"""The training benchmark in its shortest form: rates are sane, a training of some steps ends in figures."""

import json
from pathlib import Path

import pytest

from tests.benchmarks.ffn_training import RECIPE, rate, shortened, train

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"

needs_data = pytest.mark.skipif(not DATA.exists(), reason="the FIB-25 block is not there")


def test_only_the_number_of_steps_is_changed() -> None:
    before, after = (
        RECIPE.read_text(encoding="utf-8"),
        shortened(RECIPE.read_text(encoding="utf-8"), steps=80),
    )
    changed = [
        pair for pair in zip(before.splitlines(), after.splitlines(), strict=True) if pair[0] != pair[1]
    ]
    assert [new for _, new in changed] == ["every_steps = 10", "steps = 80"]


@pytest.mark.slow
@needs_data
def test_two_processes_do_the_work_of_one() -> None:
    alone, pair = (rate(DATA, "2,8,9", 4, 3, processes=processes) for processes in (1, 2))
    assert (alone["processes"], pair["processes"]) == (1, 2)
    assert alone["batch"] == pair["batch"] == 4
    assert pair["cpu_seconds_per_step"] < 3 * alone["cpu_seconds_per_step"] + 0.1


@pytest.mark.slow
@needs_data
def test_a_training_of_few_steps_is_judged(tmp_path: Path) -> None:
    found = train(DATA, tmp_path, minutes=None, steps=8, processes=2)
    assert (found["steps"], found["fovs"]) == (8, 64)
    assert [step for step, _ in found["curve"]] == list(range(1, 9))
    assert len(found["pictures"]) == 1
    held = found["held_out"]
    assert held["box"] == [[120, 0, 0], [52, 250, 250]]
    assert held["google_ffn_published"]["whole"]["voi_d_sum"] == pytest.approx(1.2638, abs=1e-3)
    json.dumps(found, allow_nan=False)
