"""What the registration benchmarks make of their runs, and ours on a small set, end to end."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from functions.model.transform import Warp
from tests.benchmarks import registration, registration_drift
from tests.benchmarks.registration_bars import BARS, average, bars, flatten, named, with_ratios
from tests.benchmarks.registration_fafb import TURN_DEG, distances, tile_points, turn
from tests.benchmarks.registration_growth import exponent
from tests.benchmarks.registration_judge import Replay, ask, wrong_matches, wrong_seams
from tests.benchmarks.registration_ours import Watch, measure
from tests.benchmarks.registration_peers import environment
from tests.benchmarks.registration_seams import judge_seams, ncc
from tests.benchmarks.registration_stack import after_rigid, compare, long_range
from tests.benchmarks.registration_synthetic import fibre_figures, synthetic_stack
from tests.functions.registration_scenes import scene, write_montage

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


class StubBench:
    """Runs nothing: FEABAS is always twice as far off as ours."""

    threads = 1

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bool]] = []

    def make_set(self, name: str, seed: int) -> Path:
        return Path(f"{name}-{seed}")

    def run(self, system: str, folder: Path, *, fresh: bool = True) -> dict[str, float]:
        self.asked.append((system, folder.name, fresh))
        return {"nbr_mean": float(folder.name[-1]) * (2.0 if system == "feabas" else 1.0), "wrong": 0.0}


def test_every_system_runs_on_every_set_and_peers_only_once() -> None:
    bench = StubBench()
    document = registration.measure(bench, ["S1", "A3"], [1, 2], ["feabas"])  # type: ignore[arg-type]
    assert bench.asked[:6] == [
        ("ours", "S1-1", True),
        ("feabas", "S1-1", False),
        ("ours", "A3-1", True),
        ("ours_masked", "A3-1", True),
        ("ours_by_stage", "A3-1", True),
        ("feabas", "A3-1", False),
    ]
    assert document["ours.A3.nbr_mean"] == 1.5
    assert document["feabas.A3.nbr_mean"] == 3.0
    assert document["ratio.A3.nbr_mean"] == 0.5
    assert document["by_seed"]["2"]["ours.A3.nbr_mean"] == 2.0
    assert {"name": "ratio.A3.nbr_mean", "limit": 0.6, "value": 0.5, "met": True} in document["bars"]
    json.dumps(document)


def test_the_motion_of_tissue_belongs_to_the_set_and_to_no_system() -> None:
    found = named("ours", "A3", {"nbr_mean": 2.0, "raw_drift_mean_px": 3.0})
    assert found == {"ours.A3.nbr_mean": 2.0, "A3.raw_drift_mean_px": 3.0}
    assert with_ratios(found, "feabas") == found


def test_slices_that_move_are_seen_to_move() -> None:
    """Raw slices that lie 0.75 and 0.5 raw px further each time move by 3 and 2 px of the set."""
    plane = scene((180, 180), 3)
    raw = [
        ndimage.shift(plane, (0.5 * k, 0.75 * k), order=3, mode="mirror")[20:140, 20:140] for k in range(3)
    ]
    points = np.array([[120.0, 160.0], [300.0, 260.0]])
    steps, loop_px = registration_drift.measure(np.array(raw, dtype=np.float64), points)
    np.testing.assert_allclose(steps, np.broadcast_to([3.0, 2.0], steps.shape), atol=0.3)
    assert loop_px < 0.7, "what windows of 48 px are good for"


def test_what_follows_the_tissue_has_no_error_beyond_its_motion() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 500, (40, 2))
    steps = rng.normal(0, 2, (3, 40, 2))
    drift = np.concatenate([np.zeros((1, 40, 2)), steps.cumsum(axis=0)])
    kind = np.array([0, 0, 2, 0])
    followed = registration_drift.beyond(points - drift, points, steps, kind)
    assert followed["nbr_mean_beyond_raw_drift"] < 0.1
    true = np.broadcast_to(points, drift.shape).copy()
    true[2, 5] = np.nan
    charged = registration_drift.beyond(true, points, steps, kind)
    assert charged["nbr_mean_beyond_raw_drift"] == pytest.approx(
        float(np.linalg.norm(steps, axis=2).mean()), rel=0.1
    )


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


class Sets:
    """A maker of sets whose sections lie 2 px further along x, one by one."""

    @staticmethod
    def sec_T(_truth: object, section: int, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # noqa: N802
        return points + np.array([[2.0 * section], [0.0]]), np.ones(points.shape[1], dtype=bool)


def test_a_pair_of_sections_may_be_off_by_what_tissue_moves_in_between() -> None:
    here = np.random.default_rng(0).uniform(0, 100, (30, 2))
    matches = {
        "0-1": np.c_[here, here],
        "0-3": np.c_[here, here + np.array([20.0, 0.0])],
        "1-2": np.c_[here, here + 9.0],
    }
    found = wrong_matches(Sets, None, matches)
    assert [pair[:2] for pair in found] == [[0, 3], [1, 2]]
    assert found[0][2] == 26.0


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
    measure(folder, tmp_path / "points.npz", tmp_path, artefacts=None, started=time.time())
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
    here = Path(__file__).parent
    code = "import sys; import {0}; print({{'ffn', 'torch', 'functions'}} & set(sys.modules))"
    for name in ("registration_judge", "registration_feabas"):
        command = [sys.executable, "-c", code.format(name)]
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "set()"


def moved(y: float, x: float) -> Warp:
    """A translation."""
    return Warp(affine=np.array([[1.0, 0.0, y], [0.0, 1.0, x]]))


def test_a_seam_shows_which_solution_is_right() -> None:
    plane = scene((640, 900), seed=3)
    tiles = [plane[:, :560].astype(np.uint8), plane[:, 340:].astype(np.uint8)]
    right, off = [moved(0, 0), moved(0, 340)], [moved(0, 0), moved(2, 343)]
    found = judge_seams(tiles, [(0, 1)], right, off)
    assert found["windows"] == 7
    assert found["ours"]["median"] > 0.999
    assert found["published"]["median"] < 0.9
    assert found["share_better"] == 1.0


def test_correlation_knows_no_gain_and_no_flat_image() -> None:
    image = scene((64, 64))
    assert ncc(image, 0.5 * image + 20) == pytest.approx(1.0, abs=1e-5)
    assert ncc(image, -image) == pytest.approx(-1.0, abs=1e-5)
    assert ncc(image, np.full_like(image, 7.0)) == 0.0


def test_one_tile_far_off_does_not_bend_the_others() -> None:
    points = tile_points((2160, 2560))
    true = np.stack([points + np.array([1900.0 * (k // 3), 2300.0 * (k % 3)]) for k in range(12)])
    shear = np.array([[1.001, 0.0], [0.0005, 0.999]])
    found = true @ shear + [40.0, -7.0]
    found[5] += 60.0
    off = distances(found, true, np.ones(12, dtype=bool))
    assert off[5] > 50
    assert np.delete(off, 5).max() < 0.01


def test_a_tile_is_turned_about_its_middle() -> None:
    middle = np.array([[1079.5, 1279.5]])
    there = Warp(affine=turn((2160, 2560), TURN_DEG))
    back = Warp(affine=turn((2160, 2560), -TURN_DEG))
    np.testing.assert_allclose(there.apply(middle), middle)
    np.testing.assert_allclose(back.apply(there.apply(middle + 500)), middle + 500)
    along = middle + np.array([0.0, 1000.0])
    assert np.linalg.norm(there.apply(along) - along) == pytest.approx(34.9, abs=0.1)


def test_exponents_of_power_laws() -> None:
    assert exponent([4, 16, 64], [8.0, 64.0, 512.0]) == 1.5
    assert exponent([4, 16, 64], [0.0, 2.0, 2.0]) == 0.0
    assert exponent([4, 16], [0.0, 1.0]) is None


def test_fibres_are_straight_bent_or_tilted() -> None:
    z = np.arange(101.0)
    tilted = fibre_figures(np.stack([0.02 * z, 0 * z], axis=1))
    assert tilted == {"from_mean_px_max": 1.0, "from_line_px_max": 0.0}
    bent = fibre_figures(np.stack([0 * z, ((z - 50) / 50) ** 2 * 3], axis=1))
    assert bent["from_line_px_max"] == pytest.approx(2.0, abs=0.1)


def test_synthetic_matches_are_off_as_asked() -> None:
    stack = synthetic_stack(30, seed=0, pair_error_px=1.0, match_error_px=0.2)
    off = [
        stack.truth[p.b].apply(p.matches.b_yx) - stack.truth[p.a].apply(p.matches.a_yx) for p in stack.pairs
    ]
    shared = np.array([o.mean(axis=0) for o in off])
    assert shared.std() == pytest.approx(1.0, rel=0.2)
    assert np.mean([o.std(axis=0) for o in off]) == pytest.approx(0.2, rel=0.05)
    path = np.concatenate([w.apply(p) for w, p in zip(stack.truth, stack.fibre((100, 200)), strict=True)])
    np.testing.assert_allclose(path, [[100.0, 200.0]] * 30, atol=1e-9)


def test_a_short_stack_with_small_errors_stays_straight() -> None:
    found = long_range(8, seed=0, pair_error_px=0.0, match_error_px=0.2)
    assert found["from_mean_px_max"] < 0.3


def test_stacks_are_compared_after_one_rigid_motion() -> None:
    points = np.random.default_rng(0).uniform(0, 500, (3, 20, 2))
    turned = Warp(affine=turn((500, 500), 3.0)).apply(points.reshape(-1, 2)).reshape(points.shape) + 9.0
    np.testing.assert_allclose(after_rigid(turned, points), 0.0, atol=1e-9)
    turned[1] += [0.0, 1.5]
    off = after_rigid(turned, points).mean(axis=1)
    assert off[1] == pytest.approx(1.0, abs=0.05)
    assert off[0] == pytest.approx(0.5, abs=0.05)


def test_what_all_sections_share_is_no_difference() -> None:
    shared = np.random.default_rng(0).normal(0, 5, (81, 2))
    off = np.stack([shared] * 5)
    assert compare(off)["section_px_max"] == 0.0
    off[3] += [0.6, 0.8]
    found = compare(off)
    assert found["section_px"] == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert found["px_mean"] == 0.2
