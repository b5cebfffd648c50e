"""The web page of the loopback: runs, one run, its volume; without a socket and in a real browser."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from flows.inputs import RunRequest
from flows.local.http.app import application, world_of
from flows.local.http.pages import run_page, runs_page, time_line
from flows.local.interpreter import Execution
from flows.records import LogEntry, RunStatus
from flows.run import Runs
from flows.service import embedded
from flows.site import local_site
from functions.model.parameters import Parameters, SegmentParameters
from functions.publication import neuroglancer
from tests.flows.loopback import FAKE_STEPS, served
from tests.flows.test_viewer import Web

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with two runs: one that failed in stitch under a label that is no text for a page."""
    folder = tmp_path_factory.mktemp("pages")
    source = folder / "acq"
    source.mkdir()
    (source / "a.tif").write_bytes(b"a")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        patch.setenv("OMP_NUM_THREADS", "1")
        runs = Runs(local_site(folder / "home", workers=1, entry_points=FAKE_STEPS), home=folder / "home")
        for order, label in (("demo", "whole"), ("fail:stitch", "<script>alert(1)</script>")):
            parameters = Parameters(segment=SegmentParameters(model=order))
            runs.start(RunRequest(source=str(source), parameters=parameters, label=label), wait=True)
    return folder / "home"


@pytest.fixture
def world(home):
    with world_of(home, local_site(home, workers=1, entry_points=FAKE_STEPS)) as made:
        yield made


def test_runs_are_listed_and_shown(world):
    failed, whole = world.site.store.heads()
    page = runs_page(world.site)
    assert page.index(failed.id[:8]) < page.index(whole.id[:8])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>" not in page
    assert "http-equiv" not in page  # nothing is under way, nothing to load again
    page = run_page(world.site, failed.id)
    assert "stitch: sections[3].tiles[0]: blank; image it again" in page
    assert "FlowFailed" in page
    page = run_page(world.site, whole.id)
    assert page.count('<div class="lane">') == 21
    assert "6/6" in page
    assert f"/runs/{whole.id}/view/report" in page


def test_older_runs_are_on_the_next_page(world, monkeypatch):
    monkeypatch.setattr("flows.local.http.pages.PAGE", 1)
    failed, whole = world.site.store.heads()
    assert f"/?below={failed.position}" in runs_page(world.site)
    older = runs_page(world.site, failed.position)
    assert whole.id[:8] in older
    assert "older runs" not in older


def test_a_published_volume_is_shown_under_its_run(world, tmp_path):
    web = Web(application(world))
    whole = world.site.store.load(world.site.store.heads()[1].id)
    assert web.get(f"/runs/{whole.head.id}/view/report").status_code == 404  # the fake bundle has no viewer
    (tmp_path / "report.html").write_text("<h1>report</h1>")
    state = neuroglancer.template(shape_zyx=(4, 8, 8), voxel_size_zyx_nm=(30, 8, 8))
    (tmp_path / "neuroglancer.json").write_text(neuroglancer.compact(state))
    assert isinstance(whole.execution, Execution)
    world.site.store.save(
        whole.head.id, whole.execution, [], time=whole.head.updated, published=str(tmp_path), step=None
    )
    assert web.get(f"/runs/{whole.head.id}/view/report").text == "<h1>report</h1>"
    base = f"http://127.0.0.1:9/runs/{whole.head.id}/view/"
    assert f"{base}data" in web.get(f"/runs/{whole.head.id}/view/state.json").text
    assert web.get(f"/runs/{whole.head.id}/view/").headers["location"].startswith(f"{base}v/bundle/")
    assert web.get("/runs/none/view/").status_code == 404


def test_a_run_that_waits_says_what_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    service = embedded(tmp_path)
    flow = {"StartAt": "a", "States": {"a": {"Type": "Pass", "End": True}}}
    flow_id = service.flows.create_flow("t", flow, {})["id"]
    site = service.world.site
    with site.here(True):
        run_id = service.flow(flow_id).run_flow({})["run_id"]
    site.hold(run_id, scopes=("urn:x",), message="log in again")
    site.carry_out(run_id)
    assert site.store.load(run_id).head.status is RunStatus.INACTIVE
    assert "log in again: " in run_page(site, run_id)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_the_page_in_a_browser(home, tmp_path):
    with served(home) as loopback:

        def dom(path: str) -> str:
            done = subprocess.run(
                [
                    *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
                    *("--dump-dom", f"{loopback.url}{path}"),
                ],
                capture_output=True, text=True, timeout=120, check=True,
            )  # fmt: skip
            return done.stdout

        whole = loopback.world.site.store.heads()[1]
        listed = dom("")
        assert listed.count('class="status SUCCEEDED"') == 1
        assert listed.count('class="status FAILED"') == 1
        assert "&lt;script&gt;" in listed
        shown = dom(f"runs/{whole.id}")
        assert shown.count('class="lane"') == 21
        assert "FlowSucceeded" in shown


def test_states_lie_on_the_time_line_where_they_worked():
    def entry(second: int, code: str, state: str) -> LogEntry:
        at = f"2026-01-01T00:00:{second:02d}.000+00:00"
        return LogEntry(time=at, code=code, state_name=state, description="", details={})

    lines = [
        entry(0, "FlowStarted", ""),
        entry(0, "ActionStarted", "A"), entry(10, "ActionCompleted", "A"),
        entry(10, "ActionStarted", "B"), entry(15, "ActionFailed", "B"),
        entry(15, "ActionStarted", "B"), entry(20, "FlowFailed", "B"),
    ]  # fmt: skip
    first, second = time_line(lines, until=None)
    assert (first.state, first.seconds) == ("A", 10.0)
    assert [(s.left, s.width, s.kind) for s in first.spans] == [(0, 50, "")]
    assert [(s.left, s.width, s.kind) for s in second.spans] == [(50, 25, "failed"), (75, 25, "failed")]
    assert second.seconds == 10.0
    assert time_line([], until=None) == []
