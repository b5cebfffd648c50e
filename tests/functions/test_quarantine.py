"""A poison subvolume is reported and left out; the rest is labelled, and the poison one can be retried."""

from __future__ import annotations

import numpy as np
import pytest

from functions import segment
from functions.model.errors import UpstreamError
from functions.plan import perform, require_done, unit_ids
from functions.runtime import execute, segment_totals
from functions.shown import read, read_tissue
from functions.store.labels import grid_of, read_local
from functions.store.marks import Attempt
from functions.store.presence import myself
from functions.store.run import Run
from functions.tasks import FanOutName, PlanTask
from tests.functions.aligned_runs import ScrambledTruth, make_run, voronoi
from tests.functions.test_relabel import label_all

SMALL = {"subvolume_zyx_px": (6, 12, 12), "overlap_zyx_px": (2, 4, 4)}
POISON = "z00004_y00007_x00007"


class Poisoned(ScrambledTruth):
    """Cannot bear one image."""

    poison: bytes | None = None

    def __call__(self, image, masks):
        if image.tobytes() == self.poison:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return super().__call__(image, masks)


@pytest.fixture
def segmenter(monkeypatch) -> Poisoned:
    made = Poisoned()
    monkeypatch.setattr(segment, "segmenter_of", lambda *_: made)
    monkeypatch.setattr(segment, "look_at", lambda *_: [])
    return made


def segmented(run: Run, *, shards: int = 2) -> tuple[dict[str, object], list[dict[str, object]]]:
    """The plan and the answers of a fan-out over all subvolumes."""
    plan = perform(PlanTask(run=run.spec, step="segment", function_id="f", shards=shards))
    return plan.to_json(), [execute("segment", task.kwargs["task"]) for task in plan.tasks]


def test_the_poison_one_is_reported_and_the_rest_is_labelled(tmp_path, segmenter) -> None:
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL, reconcile={"min_voxels": 1})
    poison = grid_of(run).get(POISON)
    segmenter.poison = read(run, poison.read)[0].tobytes()
    _, answers = segmented(run)
    assert sorted(a["status"] for a in answers) == ["look", "ok"]
    (told,) = [p for a in answers for p in a["problems"]]
    assert (told["code"], told["subject"]) == ("quarantined", POISON)
    assert min(a["left"] for a in answers) == 0
    (found,) = run.cell("segment").ledger.quarantined()
    assert found.attempts == 3
    assert "illegal memory access" in found.failures[0].traceback
    assert not read_local(run, poison).any()

    labels = label_all(run)
    alone = poison.write.slices
    outside = labels.copy()
    outside[alone] = 0
    assert (labels > 0).mean() > 0.95  # neighbours fill what the poison one would have owned, but its middle
    assert (outside > 0).sum() == labels.size - labels[alone].size
    assert perform(PlanTask(run=run.spec, step="segment", function_id="f")).problems[0].code == "quarantined"

    segmenter.poison = None
    again = Run(run.spec.model_copy(update={"retry": "it is mended"}))
    plan, answers = segmented(again)
    assert (plan["units"], plan["reused"]) == (len(grid_of(run)), len(grid_of(run)) - 1)
    assert sum(a["computed"] for a in answers) == 1
    assert run.cell("segment").ledger.quarantined() == []
    assert (label_all(run) > 0).all()


def test_a_retry_is_also_for_a_unit_that_was_about_to_be_put_aside(tmp_path, segmenter) -> None:
    """Two attempts failed, and in the third its worker was ended: it is not in quarantine yet."""
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL)
    ledger = run.cell("segment").ledger
    ledger.number(segment.units(run), size=4)
    lot = ledger.numbering.lot_of(POISON)
    claim = ledger.lot(lot).take_next(myself())
    for _ in range(2):
        claim.begin(POISON)
        claim.fail(POISON, Attempt(worker="a", error="VolumeError: damaged chunk"))
    claim.begin(POISON)
    claim.release()
    again = Run(run.spec.model_copy(update={"retry": "it is mended"}))
    _, answers = segmented(again)
    assert sum(a["computed"] for a in answers) == len(grid_of(run))
    assert ledger.quarantined() == []
    assert list(ledger.suspects()) == []


def planned_again(run: Run) -> dict[str, float]:
    """What the flow compares to see whether a round got any further."""
    return perform(PlanTask(run=run.spec, step="segment", function_id="f")).figures


def test_a_retry_is_for_what_was_found_before_it_and_not_for_what_its_own_rounds_find(tmp_path) -> None:
    """Else each plan of the flow forgets what the round before it found out, and the flow takes it for
    stuck."""
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL, fan_out={"max_attempts": 2})
    ledger = run.cell("segment").ledger
    ledger.number(segment.units(run), size=1)
    again = Run(run.spec.model_copy(update={"retry": "it is mended"}))
    figures = [planned_again(again)]
    for company in (2, 1):
        claim = ledger.lot(0).take_next(myself())
        claim.begin(segment.units(run)[0], company=company)  # and its process is killed
        figures.append(planned_again(again))
    assert [f["lost"] for f in figures] == [0, 1, 2]
    standing = ledger.lot(0).standings()[segment.units(run)[0]]
    assert (standing.tries, standing.at_most) == (1, 1)


def test_a_plan_counts_what_it_lets_out_of_quarantine_as_open(tmp_path) -> None:
    """Else a first round that computes as many looks as if it had got no further."""
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL)
    ledger, units = run.cell("segment").ledger, segment.units(run)
    ledger.number(units, size=1)
    claim = ledger.lot(0).take_next(myself())
    claim.begin(units[0])
    ledger.tell_quarantine(claim.standing(units[0]).given_up(units[0]))
    claim.quarantine(units[0])
    claim.finish()
    assert planned_again(run)["settled"] == 1
    again = Run(run.spec.model_copy(update={"retry": "it is mended"}))
    assert planned_again(again)["settled"] == 0


def test_a_unit_that_later_steps_need_stops_them(tmp_path) -> None:
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL)
    steps: tuple[FanOutName, ...] = ("match", "segment")
    for step in steps:
        ledger = run.cell(step).ledger
        unit = unit_ids(run, step)[0]
        ledger.number([unit], size=1)
        claim = ledger.lot(0).take_next(myself())
        claim.begin(unit)
        ledger.tell_quarantine(claim.standing(unit).given_up(unit))
        claim.quarantine(unit)
        claim.finish()
    require_done(run, "segment")
    with pytest.raises(UpstreamError, match="match: 1 units are not finished"):
        require_done(run, "match")


def test_a_step_whose_units_were_put_aside_for_what_it_reads_says_how_to_try_them_again(
    tmp_path, monkeypatch
) -> None:
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), segment=SMALL)
    unit = unit_ids(run, "segment")[0]
    monkeypatch.setattr("functions.align_render.units", lambda _: ["z00003"])
    with pytest.raises(
        UpstreamError, match=r"align_render: 1 units .*z00003.*start the run at align_render$"
    ):
        perform(PlanTask(run=run.spec, step="segment", function_id="f"))
    ledger = run.cell("segment").ledger
    ledger.number([unit], size=1)
    claim = ledger.lot(0).take_next(myself())
    claim.begin(unit)
    ledger.tell_quarantine(claim.standing(unit).given_up(unit))
    with pytest.raises(UpstreamError, match=r"start the run at align_render, with --retry-quarantined"):
        perform(PlanTask(run=run.spec, step="segment", function_id="f"))


def test_a_subvolume_without_tissue_is_marked_at_once_and_costs_no_labels(tmp_path, monkeypatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("there is nothing to flood")

    tissue = np.zeros((10, 26, 26), bool)
    tissue[:, :8, :8] = True
    run = make_run(tmp_path, voronoi((10, 26, 26), 15, seed=2), tissue=tissue, segment=SMALL)
    empty = [s for s in grid_of(run) if not read_tissue(run, s.read).any()]
    assert 0 < len(empty) < len(grid_of(run))
    monkeypatch.setattr(segment, "segmenter_of", never)
    for subvolume in empty:
        run.cell("segment").run_unit(subvolume.id, lambda s=subvolume: segment.compute(run, s.id))
        assert not read_local(run, subvolume).any()
        assert read_local(run, subvolume).shape == subvolume.read.shape_zyx
    assert segment_totals(run)["empty"] == len(empty)
