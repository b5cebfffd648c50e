"""What the registration benchmarks make of their runs, and ours on a small set, end to end."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.benchmarks.registration_bars import BARS, average, bars, flatten, with_ratios
from tests.benchmarks.registration_judge import Replay, ask, wrong_seams
from tests.benchmarks.registration_ours import Watch, measure
from tests.benchmarks.registration_peers import environment
from tests.functions.registration_scenes import write_montage

SCORE = {
    "seam": {"mean": 0.1, "median": 0.09, "p95": 0.2, "max": 0.6, "n": 10},
    "global_rigid": {"mean": 3.0, "median": 3.0, "p95": 5.0, "max": 7.0, "n": 10},
    "missing": 0,
    "pairs_kept": 24,
    "wrong": [[0, 1, 7.5]],
}
RUN = {
    "seconds": {"correlation": 6.0, "render": 2.0},
    "cpu": {"correlation": 3.0, "render": 1.0},
    "total": 8.0,
    "cpu_seconds": 4.0,
    "peak_mb": 500,
    "refused": ["tile 3"],
}


def test_a_run_is_flattened_to_figures() -> None:
    figures = flatten(SCORE, RUN, megapixels=4.0)
    assert figures["seam_p95"] == 0.2
    assert figures["wrong"] == 1
    assert figures["refused"] == 1
    assert figures["seconds_per_mpx"] == 2.0
    assert figures["cpu_seconds_per_mpx"] == 1.0
    assert figures["seconds_correlation"] == 6.0
    assert figures["cpu_render"] == 1.0
    assert "nbr_mean" not in figures


def test_averages_are_over_the_seeds_that_have_a_figure() -> None:
    assert average([{"a": 1.0, "b": 4.0}, {"a": 2.0}]) == {"a": 1.5, "b": 4.0}


def test_ratios_are_ours_over_theirs_and_only_where_both_are_there() -> None:
    figures = {
        "ours.A3.nbr_mean": 1.0,
        "feabas.A3.nbr_mean": 2.0,
        "ours.S1.seam_p95": 0.2,
        "ours_masked.A3.nbr_mean": 0.5,
    }
    ratios = {k: v for k, v in with_ratios(figures, "feabas").items() if k.startswith("ratio.")}
    assert ratios == {"ratio.A3.nbr_mean": 0.5}


def test_bars_are_met_failed_or_unknown() -> None:
    found = {b["name"]: b for b in bars({"ours.S1.seam_p95": 0.25, "ours.S2.seam_p95": 0.36})}
    assert len(found) == len(BARS)
    assert found["ours.S1.seam_p95"] == {
        "name": "ours.S1.seam_p95",
        "limit": 0.25,
        "value": 0.25,
        "met": True,
    }
    assert found["ours.S2.seam_p95"]["met"] is False
    assert found["ratio.S1.seconds"]["value"] is None
    assert found["ratio.S1.seconds"]["met"] is None


class Scorer:
    """A scorer that asks for two tiles, then for the seam between them."""

    @staticmethod
    def eval_stitch(_folder: str, place: object) -> list[np.ndarray]:
        points = np.arange(6, dtype=float).reshape(3, 2)
        return [place(index, points) for index in (0, 1, 0, 1)]  # type: ignore[operator]


def test_answers_are_replayed_in_the_order_of_the_questions() -> None:
    asked = ask(Scorer, {"pos_true": None}, Path("set"))
    assert asked.index == [0, 1, 0, 1]
    mapped = np.concatenate(asked.points) + np.repeat([[0.0, 0.0], [10.0, 0.0]] * 2, 3, axis=0)
    replies = Scorer.eval_stitch("set", Replay(asked, mapped))
    np.testing.assert_allclose(replies[3] - replies[2], [[10.0, 0.0]] * 3)


def test_a_kept_seam_that_is_off_is_wrong() -> None:
    asked = ask(Scorer, {"pos_true": None}, Path("set"))
    mapped = np.concatenate(asked.points)
    mapped[-3:, 1] += 4.0
    assert wrong_seams(Replay(asked, mapped), 2, {(0, 1)}) == [[0, 1, 4.0]]
    assert wrong_seams(Replay(asked, mapped), 2, set()) == []
    mapped[-3:, 1] -= 2.0
    assert wrong_seams(Replay(asked, mapped), 2, {(0, 1)}) == []


def test_a_stage_inside_another_interrupts_it() -> None:
    watch = Watch(time.time())
    started = time.perf_counter()
    watch.run("outer", lambda: (time.sleep(0.05), watch.run("inner", time.sleep, 0.2), time.sleep(0.05)))
    whole = time.perf_counter() - started
    assert watch.seconds["inner"] >= 0.2
    assert 0.1 <= watch.seconds["outer"] <= whole - 0.2
    assert watch.seconds["inner"] + watch.seconds["outer"] == pytest.approx(whole, abs=0.02)


def test_sofima_is_refused_with_a_reason() -> None:
    with pytest.raises(SystemExit, match=r"sofima: has no driver here.*give feabas"):
        environment(("sofima",))


def test_ours_on_a_small_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    section, corners = write_montage(folder, grid=(2, 2), size=200, overlap=44)
    lines = ["file,x,y"]
    for tile in section.tiles:
        y, x = tile.stage_yx_nm
        lines.append(f"{Path(tile.path).name},{x / 4.0:.0f},{y / 4.0:.0f}")
    (folder / "positions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    centre = np.full((1, 2), 100.0)
    np.savez(tmp_path / "points.npz", index=range(4), length=[1] * 4, points_xy=np.concatenate([centre] * 4))
    measure(folder, tmp_path / "points.npz", tmp_path, masks=None, started=time.time())
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["refused"] == []
    assert {"reading", "correlation", "solve", "render", "start"} <= set(figures["seconds"])
    with np.load(tmp_path / "mapped.npz") as archive:
        mapped, kept = archive["mapped_xy"], archive["kept"]
    assert sorted(map(tuple, kept.tolist())) == [(0, 1), (0, 2), (1, 3), (2, 3)]
    off = (mapped - mapped[0]) - (corners - corners[0])[:, ::-1]
    assert np.abs(off).max() < 0.5


def test_the_judge_needs_nothing_of_ours() -> None:
    """It runs in another environment: importing it must not pull in the project."""
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print({'ffn', 'torch'} & set(sys.modules))"
    for name in ("registration_judge.py", "registration_feabas.py"):
        path = Path(__file__).with_name(name)
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"
