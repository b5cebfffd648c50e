"""From a fake microscope to stitched sections at the embedded site, by the real flow and the real steps."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.inputs import RunRequest
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
from flows.watch.outbox import Outbox
from flows.watch.starting import FoundRun, RunsStarter
from functions.store.run import Run
from functions.tasks import RunSpec
from functions.testing.microscopes import Script
from functions.testing.microscopes.script import ADDRESS
from tests.flows.watching import World

ROOT = Path(__file__).parents[2]
MARK = "watch:0123abcd"


class Waiting(RunsStarter):
    """Carries each run out before it returns."""

    def __init__(self, runs: Runs) -> None:
        super().__init__(runs, mark=MARK)
        self.site_runs = runs

    def start(self, request: RunRequest) -> str:
        marked = request.model_copy(update={"tags": (*request.tags, MARK)})
        return self.site_runs.start(marked, wait=True).id

    def find(self, tag: str) -> FoundRun | None:
        return super().find(tag)


@pytest.mark.parametrize("kind", ["sbemimage", pytest.param("serialem", marks=pytest.mark.slow)])
def test_sections_are_stitched_while_the_microscope_works(tmp_path, kind, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    home = tmp_path / "site"
    runs = Runs(local_site(home, workers=1), home=home)
    world = World(tmp_path)
    world.starter = Waiting(runs)
    world.again()
    world.acquire(kind, Script(sections=2, tile_px=64), looking=False)
    world.look()
    world.rest(70)
    done = runs.list()
    assert [run.status for run in done] == [RunStatus.SUCCEEDED] * 2, [run.error for run in done]
    assert {tag for run in done for tag in run.tags if tag.startswith("section-version:")} == {
        f"section-version:stack:{row.z}:1" for row in world.ledger.sections()
    }

    # nothing but images and our documents has left, and nothing anywhere names the operator
    scratch = home / "scratch" / "stack"
    moved = {p.name for p in (scratch / "raw").rglob("*") if p.is_file()} if kind == "sbemimage" else set()
    assert len(moved) == (8 if kind == "sbemimage" else 0)
    assert all(name.endswith(".tif") for name in moved)
    for path in home.rglob("*"):
        assert not path.is_file() or ADDRESS.encode() not in path.read_bytes(), path

    # a run of all sections finds them stitched, though it moves nothing
    rows, facts = world.ledger.sections(), world.ledger.acquisition().facts
    box = Outbox(tmp_path / "outbox", folder=world.folder, acquisition_id="stack", ledger=world.ledger)
    documents, files = box.pack("all", rows, facts)
    assert files == ()
    whole = runs.start(
        RunRequest(
            source=str(world.folder),
            acquisition_id="stack",
            stop_after="stitch",
            files=files,
            documents=str(documents),
        ),
        wait=True,
    )
    assert whole.status is RunStatus.SUCCEEDED, whole.error
    _, steps = runs.show(whole.id)
    stitch = next(step for step in steps if step.name == "stitch")
    assert (stitch.units, stitch.computed, stitch.reused) == (2, 0, 2)
    manifest = Run(RunSpec.parse(whole.input["input"]["run"], source="run")).manifest
    assert [len(s.section.tiles) for s in manifest.sections] == [4, 4]
    assert not manifest.acquisition.missing_sections
