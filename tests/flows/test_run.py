"""Whole runs of the real definition with fake steps: in this process, detached, killed, cancelled, rerun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from flows.errors import InputError, RunError
from flows.inputs import RunRequest, build_input, request_of, tags_of
from flows.local.search import LocalIndex
from flows.records import FLOW_STEPS, RunStatus, StepStatus
from flows.run import Runs
from flows.site import local_site
from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.fan_out import FanOutParameters
from functions.model.parameters import CandidatesParameters, Parameters, SegmentParameters
from functions.store.cells import UnitReport
from functions.store.files import write_json
from functions.store.run import IngestedSection, IngestManifest, Run
from functions.tasks import RunSpec

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def runs(tmp_path):
    return Runs(
        local_site(tmp_path / "home", workers=1, entry_points="tests.flows.fake_steps"),
        home=tmp_path / "home",
    )


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "acq"
    folder.mkdir()
    for name in ("a.tif", "b.tif"):
        (folder / name).write_bytes(name.encode() * 100)
    return folder


def ask(source, order="demo", **more) -> RunRequest:
    parameters = Parameters(
        segment=SegmentParameters(model=order), candidates=CandidatesParameters(sources=("contact",))
    )
    return RunRequest(source=str(source), parameters=parameters, **more)


def counts(run) -> Counter:
    return Counter((Path(run.work_path) / "counts").read_text().splitlines())


def wait_until(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_the_whole_flow(runs, source, tmp_path):
    events = []
    run = runs.start(ask(source), wait=True, on_event=events.append)
    assert (run.status, run.error) == (RunStatus.SUCCEEDED, None)
    published = Path(run.published_path)
    assert published == tmp_path / "home/published/acq" / run.id
    assert len(json.loads((published / "search.json").read_text())) == 48
    assert [p.name for p in published.parent.iterdir()] == [run.id]
    index = LocalIndex(tmp_path / "home/index.sqlite")
    (entry,) = index.entries(search_index=runs.site.search_index)
    assert entry["subject"].endswith(f"/acq/{run.id}")
    assert entry["content"] == {"title": "fake", "units": 48}

    record, steps = runs.show(run.id[:8])
    assert record == run
    assert [step.name for step in steps] == list(FLOW_STEPS)
    assert {step.status for step in steps} == {StepStatus.SUCCEEDED}
    segment = steps[FLOW_STEPS.index("segment")]
    assert (segment.shards_done, segment.shards_total, segment.units, segment.computed) == (6, 6, 6, 6)
    codes = [entry.code for entry in runs.logs("last")]
    assert (codes[0], codes[-1]) == ("FlowStarted", "FlowSucceeded")
    assert codes.count("ActionStarted") == codes.count("ActionCompleted") == 26
    assert [event.log.code for event in events if event.log] == codes
    assert {event.step.name for event in events if event.step} == set(FLOW_STEPS)

    # a rerun from a step takes over what is done and publishes beside the first run
    again = runs.rerun(run.id, start_at="segment", stop_after="relabel", wait=True)
    assert (again.parent_run, again.status, again.published_path) == (run.id, RunStatus.SUCCEEDED, None)
    _, steps = runs.show(again.id)
    states = {step.name: step.status for step in steps}
    assert states["stitch"] == states["publish"] == StepStatus.SKIPPED
    assert [(s.reused, s.computed) for s in steps if s.name == "segment"] == [(6, 0)]
    assert set(counts(run).values()) == {1}
    assert [record.id for record in runs.list()] == [again.id, run.id]
    with pytest.raises(RunError, match="no such run"):
        runs.show("zzz")


def test_agglomeration_is_gone_round_unless_it_is_asked_for(runs, source):
    left_out = {"candidates", "resegment", "agglomerate"}
    request = ask(source)
    off = request.model_copy(update={"parameters": Parameters()})
    run = runs.start(off, wait=True)
    assert run.status is RunStatus.SUCCEEDED
    steps = {step.name: step.status for step in runs.show(run.id)[1]}
    assert {name for name, status in steps.items() if status is StepStatus.SKIPPED} == left_out
    assert not left_out & {line.split("/")[0] for line in counts(run)}
    ended = runs.start(off.model_copy(update={"stop_after": "agglomerate"}), wait=True)
    steps = {step.name: step.status for step in runs.show(ended.id)[1]}
    assert {steps[name] for name in ("finish", "publish", *left_out)} == {StepStatus.SKIPPED}
    again = runs.rerun(run.id, parameters=request.parameters, start_at="candidates", wait=True)
    assert again.status is RunStatus.SUCCEEDED
    assert counts(run)["resegment/u0"] == 1


@pytest.mark.parametrize(
    ("order", "cause"),
    [
        ("fail:stitch", "stitch: sections[3].tiles[0]: blank; image it again"),
        ("raise:stitch", "stitch: volume.zarr: shape differs; run stitch again"),
    ],
)
def test_a_failing_step_fails_the_run_readably(runs, source, order, cause):
    run = runs.start(ask(source, order), wait=True)
    assert (run.status, run.error, run.published_path) == (RunStatus.FAILED, cause, None)
    _, steps = runs.show(run.id)
    status = {step.name: step.status for step in steps}
    assert status["stitch"] is StepStatus.FAILED
    assert (status["ingest"], status["segment"]) == (StepStatus.SUCCEEDED, StepStatus.WAITING)


def test_a_worker_that_dies_once_is_replaced(runs, source):
    run = runs.start(ask(source, "die:stitch", stop_after="stitch"), wait=True)
    assert run.status is RunStatus.SUCCEEDED
    assert (Path(run.work_path) / "died").exists()
    assert set(counts(run).values()) == {1}


def runner_of(run_id: str) -> int:
    found = subprocess.run(
        ["pgrep", "-f", f"flows.local.process .*{run_id}"], capture_output=True, text=True, check=False
    ).stdout.split()
    assert len(found) == 1
    return int(found[0])


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(child) for child in found.stdout.split()]


def gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
@pytest.mark.parametrize(
    "step",
    [
        "stitch",
        *(
            pytest.param(step, marks=pytest.mark.slow)
            for step in FLOW_STEPS
            if step not in ("stitch", "publish")
        ),
    ],
)
def test_killed_runs_go_on_without_redoing_units(runs, source, step):
    run = runs.start(ask(source, "slow"))
    assert run.status is RunStatus.ACTIVE

    def reached():
        return any(s.name == step and s.status is not StepStatus.WAITING for s in runs.show(run.id)[1])

    wait_until(reached)
    with pytest.raises(RunError, match="is running"):
        runs.rerun(run.id)
    pid = runner_of(run.id)
    workers = children_of(pid)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: runs.show(run.id)[0].status is RunStatus.INTERRUPTED)
    wait_until(lambda: all(gone(worker) for worker in workers))
    before = counts(run) if (Path(run.work_path) / "counts").exists() else Counter()

    again = runs.rerun(run.id)
    assert again.id == run.id
    last = list(runs.follow(run.id))[-1]
    assert last.run.status is RunStatus.SUCCEEDED
    after = counts(run)
    finished = {unit for unit in before if before[unit] == after[unit]}
    assert len(after) == 48
    assert all(count <= 2 for count in after.values())
    assert sum(count == 2 for count in after.values()) <= 1  # at most the unit that was under way
    assert len(finished) >= len(before) - 1
    assert len(json.loads((Path(last.run.published_path) / "search.json").read_text())) == 48
    steps = runs.show(run.id)[1]
    assert {s.status for s in steps} == {StepStatus.SUCCEEDED}
    assert all(0 <= s.seconds < 600 for s in steps)
    output = runs.service.flows.get_run(run.id)["details"]["output"]
    assert output["finished"] == {"ok": True}


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_cancel_stops_the_runner(runs, source):
    run = runs.start(ask(source, "slow"))
    wait_until(lambda: any(s.shards_done for s in runs.show(run.id)[1] if s.name == "stitch"))
    pid = runner_of(run.id)
    cancelled = runs.cancel(run.id)
    assert cancelled.status is RunStatus.CANCELLED
    assert RunSpec.parse(run.input["input"]["run"], source="run").sentinel_path.exists()
    wait_until(lambda: gone(pid))
    assert runs.cancel(run.id).status is RunStatus.CANCELLED
    assert runs.logs(run.id)[-1].code == "FlowCanceled"
    again = runs.rerun(run.id, stop_after="stitch", wait=True)
    assert (again.status, again.parent_run) == (RunStatus.SUCCEEDED, run.id)
    assert not RunSpec.parse(again.input["input"]["run"], source="run").sentinel_path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="looks processes up in /proc")
def test_one_run_at_a_time_works_on_an_acquisition(runs, source):
    run = runs.start(ask(source, "slow"))
    with pytest.raises(RunError, match=f"run {run.id} is at work on it; follow that run, or cancel it first"):
        runs.start(ask(source, stop_after="transfer"), wait=True)
    assert [record.id for record in runs.list()] == [run.id]
    assert runs.cancel(run.id).status is RunStatus.CANCELLED
    assert runs.start(ask(source, stop_after="transfer"), wait=True).status is RunStatus.SUCCEEDED


def test_a_rerun_with_other_parameters_keeps_the_chosen_sections(runs, source):
    run = runs.start(ask(source, stop_after="transfer", sections=(3, 9)), wait=True)
    asked = runs.request(run.id).all_parameters
    assert asked.ingest.sections == (3, 9)
    other = asked.model_copy(update={"segment": SegmentParameters(model="other")})
    again = runs.rerun_request(run.id, parameters=other).all_parameters
    assert (again.ingest.sections, again.segment.model) == ((3, 9), "other")
    everything = asked.model_copy(update={"ingest": Parameters().ingest})
    assert runs.rerun_request(run.id, parameters=everything).all_parameters.ingest.sections is None


def test_two_folders_do_not_share_an_acquisition_id(runs, source, tmp_path):
    runs.start(ask(source, stop_after="transfer"), wait=True)
    other = tmp_path / "other" / "acq"
    other.mkdir(parents=True)
    with pytest.raises(InputError, match=r"acquisition id acq is taken by"):
        runs.start(ask(other, stop_after="transfer"), wait=True)
    named = ask(other, stop_after="transfer", acquisition_id="acq2")
    assert runs.start(named, wait=True).acquisition_id == "acq2"


def test_a_transfer_that_cannot_be_done_fails_the_run(runs, source, tmp_path):
    (source / "out").symlink_to(tmp_path)
    run = runs.start(ask(source), wait=True)
    assert run.status is RunStatus.FAILED
    assert "out: a link that leaves the folder; put the file itself there" in run.error
    assert not (tmp_path / "home/scratch/acq/raw").exists()


def test_the_segment_step_shows_the_totals_of_its_subvolumes(runs, source):
    run = runs.start(ask(source), wait=True)

    def figures(name: str) -> dict[str, float]:
        return {step.name: step.figures for step in runs.show(run.id)[1]}[name]

    assert figures("segment") == {}  # nobody knows the subvolumes: shown without
    work = Run(RunSpec.parse(run.input["input"]["run"], source="run"))
    manifest = IngestManifest(
        acquisition=Acquisition(
            id="acq",
            instrument="toy",
            layout="folder",
            voxel_size_zyx_nm=(1, 1, 1),
            aligned=True,
            sections=(),
        ),
        sections=(),
    )
    write_json(work.manifest_path, manifest.to_json())
    cost = {"fovs": 10, "rejected_fovs": 3, "voxels": 4000, "tissue_voxels": 2000, "labelled_voxels": 500}
    for unit, seconds in (("a", 1.5), ("b", 0.5)):
        report = UnitReport(figures={**cost, "network_seconds": seconds, "host_seconds": 1.0})
        work.cell("segment").run_unit(unit, lambda report=report: report)
    shown = figures("segment")
    assert (shown["fovs"], shown["rejected_fovs"], shown["seeds"]) == (20, 6, 0)
    assert (shown["network_seconds"], shown["host_seconds"]) == (2.0, 2.0)
    assert shown["labelled_fraction"] == 0.25
    assert shown["voxels_per_second"] == 2000.0
    assert figures("stitch") == {}
    for path in work.cell("segment").path.glob("ledger/units/*/b.0"):
        path.write_bytes(path.read_bytes()[:-20])
    assert figures("segment")["fovs"] == 10  # what is not whole was not written


def test_the_steps_of_registration_show_the_seconds_of_their_stages(runs, source):
    run = runs.start(ask(source), wait=True)
    work = Run(RunSpec.parse(run.input["input"]["run"], source="run"))
    sections = tuple(
        Section(z=z, tiles=(Tile(row=0, column=0, path=f"{z}.tif", stage_yx_nm=(0, 0), shape_yx=(9, 9)),))
        for z in (0, 1)
    )
    manifest = IngestManifest(
        acquisition=Acquisition(
            id="acq", instrument="toy", layout="folder", voxel_size_zyx_nm=(1, 1, 1), sections=sections
        ),
        sections=tuple(IngestedSection(section=s, fingerprint=str(s.z)) for s in sections),
    )
    write_json(work.manifest_path, manifest.to_json())
    for unit, seconds in (("z00000", 1.5), ("z00001", 0.25)):
        report = UnitReport(figures={"tiles": 1.0, "read_seconds": seconds, "solve_seconds": 1.0})
        work.cell("stitch", unit).run_unit(unit, lambda report=report: report)
    shown = {step.name: step.figures for step in runs.show(run.id)[1]}
    assert (shown["stitch"]["read_seconds"], shown["stitch"]["solve_seconds"]) == (1.75, 2.0)
    assert "tiles" not in shown["stitch"]
    assert "read_seconds" not in shown["align_pairs"]


@pytest.mark.parametrize("order", ["drain:match", "lose:match"])
def test_a_fan_out_is_planned_again_until_nothing_is_left(tmp_path, source, order):
    home = tmp_path / "home"
    site = local_site(home, workers=1, entry_points="tests.flows.fake_steps")
    runs = Runs(site.model_copy(update={"shards": 2}), home=home)
    run = runs.start(ask(source, order, start_at="match", stop_after="match"), wait=True)
    assert run.status is RunStatus.SUCCEEDED
    assert counts(run) == {f"match/u{i}": 1 for i in range(6)}
    states = [entry.state_name for entry in runs.logs(run.id) if entry.code == "ActionStarted"]
    rounds = states.count("Match")
    assert states.count("PlanMatch") == rounds > 1
    match = next(step for step in runs.show(run.id)[1] if step.name == "match")
    assert (match.units, match.units_done, match.computed, match.reused) == (6, 6, 6, 0)


def test_a_fan_out_goes_on_while_it_finds_out_which_unit_ends_its_workers(tmp_path, source):
    home = tmp_path / "home"
    site = local_site(home, workers=1, entry_points="tests.flows.fake_steps")
    runs = Runs(site.model_copy(update={"shards": 1}), home=home)
    run = runs.start(ask(source, "kill:match", start_at="match", stop_after="match"), wait=True)
    assert run.status is RunStatus.SUCCEEDED
    states = [entry.state_name for entry in runs.logs(run.id) if entry.code == "ActionStarted"]
    assert states.count("PlanMatch") == states.count("Match") == 4


def test_a_fan_out_that_gets_no_further_fails_in_its_second_round(runs, source):
    run = runs.start(ask(source, "stall:match", start_at="match"), wait=True)
    assert run.status is RunStatus.FAILED
    assert run.error.startswith("match: units are left, and no worker got any further; read what")
    entries = runs.logs(run.id)
    assert [e.state_name for e in entries if e.code == "ActionStarted"] == ["PlanMatch", "Match", "PlanMatch"]


def test_a_retry_of_what_is_in_quarantine_is_a_run_of_its_own_and_is_asked_for_once(runs, source):
    first = runs.start(ask(source, start_at="match", stop_after="match"), wait=True)
    again = runs.rerun(first.id, retry_quarantined=True, wait=True)
    third = runs.rerun(again.id, wait=True)
    asked = [run.input["input"]["run"]["retry"] for run in (first, again, third)]
    assert asked[0] is asked[2] is None
    assert len(asked[1]) == 36
    assert again.parent_run == first.id


def test_a_site_may_forbid_to_claim_and_a_rerun_follows_the_site_that_carries_it_out(runs, source):
    forbids = runs.site.model_copy(update={"claiming": False})
    functions = runs._functions()
    request = ask(source)
    for where in (runs.site, forbids, runs.site):
        document = build_input(request, where, functions=functions)
        assert document["input"]["run"]["claiming"] is where.claiming
        assert document["input"]["run"]["parameters"]["fan_out"]["claiming"] is True
        request = request_of(document, where, tags=())
    asked = Parameters(fan_out=FanOutParameters(claiming=False))  # for this run, wherever it is carried out
    request = request_of(
        build_input(ask(source).model_copy(update={"parameters": asked}), forbids, functions=functions),
        forbids,
        tags=(),
    )
    assert request.parameters.fan_out.claiming is False


def test_a_rerun_has_the_memory_of_the_site_that_carries_it_out_unless_it_was_given(runs, source):
    functions = runs._functions()

    def carried_out(request, site):
        document = build_input(request, site, functions=functions)
        return document, document["input"]["run"]["memory_gib"]

    small, large, unlimited = (runs.site.model_copy(update={"memory_gib": gib}) for gib in (4.0, 64.0, None))
    for asked, there, elsewhere, anywhere in ((None, 4.0, 64.0, None), (8.0, 8.0, 8.0, 8.0)):
        request = ask(source, memory_gib=asked)
        document, gib = carried_out(request, small)
        again = request_of(document, small, tags=(*tags_of(request, "acq"), "mine"))
        assert (gib, again.memory_gib, again.tags) == (there, asked, ("mine",))
        assert [carried_out(again, site)[1] for site in (small, large, unlimited)] == [
            there,
            elsewhere,
            anywhere,
        ]


def test_a_rerun_keeps_the_memory_that_was_given_until_another_is(runs, source):
    run = runs.start(ask(source, stop_after="transfer", memory_gib=8.0), wait=True)
    again = runs.rerun(run.id, wait=True)
    assert again.input["input"]["run"]["memory_gib"] == 8.0
    assert runs.rerun_request(again.id).memory_gib == 8.0
    assert runs.rerun_request(again.id, memory_gib=16.0).memory_gib == 16.0


def test_a_stack_that_the_gate_fails_ends_the_run_before_anything_is_computed_on_it(runs, source):
    run = runs.start(ask(source, "refuse"), wait=True)
    assert (run.status, run.published_path) == (RunStatus.FAILED, None)
    assert run.error == "align_solve: z00003: pair z00003-z00004: off by 21 px: gate_fail; look at it"
    last = runs.logs(run.id)[-1]
    assert (last.code, last.state_name) == ("FlowFailed", "RegistrationRefused")
    assert last.details["error"] == "RegistrationRefused"
    status = {step.name: step.status for step in runs.show(run.id)[1]}
    assert status["align_solve"] is StepStatus.FAILED
    assert (status["align_pairs"], status["align_render"]) == (StepStatus.SUCCEEDED, StepStatus.WAITING)
    assert {line.split("/")[0] for line in counts(run)} == {"stitch", "align_pairs"}

    again = runs.rerun(run.id, on_gate_fail="continue", wait=True)
    assert (again.status, again.parent_run) == (RunStatus.SUCCEEDED, run.id)
    assert set(counts(again).values()) == {1}  # what was stitched and registered is taken over
    status = {step.name: step.status for step in runs.show(again.id)[1]}
    assert (status["align_solve"], status["align_render"]) == (StepStatus.LOOK, StepStatus.SUCCEEDED)


def test_a_stack_that_the_gate_doubts_goes_on(runs, source):
    run = runs.start(ask(source, "doubt", stop_after="align_render"), wait=True)
    assert (run.status, run.error) == (RunStatus.SUCCEEDED, None)
    status = {step.name: step.status for step in runs.show(run.id)[1]}
    assert (status["align_solve"], status["align_render"]) == (StepStatus.LOOK, StepStatus.SUCCEEDED)


def test_a_refused_stack_ends_refused_where_the_run_was_to_stop_after_it(runs, source):
    run = runs.start(ask(source, "refuse", stop_after="align_solve"), wait=True)
    assert run.status is RunStatus.FAILED
    go_on = ask(source, "refuse", stop_after="align_solve", on_gate_fail="continue")
    assert runs.start(go_on, wait=True).status is RunStatus.SUCCEEDED


def test_a_run_is_found_by_its_acquisition_sections_stage_and_own_tags(runs, source):
    request = ask(source, sections=(0, 2), stop_after="ingest", tags=("section-version:7.2",))
    run = runs.start(request, wait=True)
    assert run.tags == ("acquisition:acq", "sections:0-2", "stage:transfer-ingest", "section-version:7.2")
    assert [found.id for found in runs.tagged("section-version:7.2")] == [run.id]
    assert runs.tagged("section-version:7") == []
