"""Runs of disjoint sections that stop at stitch share an acquisition; all others wait."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.company import may_share
from flows.errors import RunError
from flows.inputs import MAX_FILES_BYTES, RunRequest, tags_of
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site
from flows.tracking import record_of
from functions.model.errors import TaskError
from functions.model.parameters import Parameters, SegmentParameters

ROOT = Path(__file__).parents[2]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    home = tmp_path / "home"
    return Runs(local_site(home, workers=1, entry_points="tests.flows.fake_steps"), home=home)


def ask(tmp_path, first, end, **more) -> RunRequest:
    folder = tmp_path / "acq"
    folder.mkdir(exist_ok=True)
    (folder / "a.tif").write_bytes(b"a")
    fields = {"stop_after": "stitch", "files": ("/a.tif",), "sections": (first, end)}
    return RunRequest(source=str(folder), **{**fields, **more})


@pytest.mark.parametrize(
    ("other", "shares"),
    [
        ({}, True),
        ({"sections": (1, 3)}, False),
        ({"sections": None}, False),
        ({"stop_after": "align_solve"}, False),
        ({"files": ("/",)}, False),  # it would move the others' files too
    ],
)
def test_who_may_share(runs, tmp_path, other, shares):
    first, second = (record(runs, ask(tmp_path, *z, **m)) for z, m in (((0, 2), {}), ((2, 4), other)))
    assert may_share(first, second) is may_share(second, first) is shares


def record(runs, request):
    """As a list of runs shows it: without its input."""
    document = {"run_id": "x", "status": "ACTIVE", "start_time": "", "tags": tags_of(request, "acq")}
    return record_of(document, runs.site)


def test_a_disjoint_run_starts_beside_one_that_is_at_work(runs, tmp_path):
    slow = Parameters(segment=SegmentParameters(model="slow"))
    first = runs.start(ask(tmp_path, 0, 2, parameters=slow))
    try:
        with pytest.raises(RunError, match="is at work on it"):
            runs.start(ask(tmp_path, 1, 3))
        with pytest.raises(RunError, match="is at work on it"):
            runs.start(RunRequest(source=str(tmp_path / "acq")))
        beside = runs.start(ask(tmp_path, 2, 4), wait=True)
        assert beside.status is RunStatus.SUCCEEDED
        again = runs.request(beside.id)
        assert (again.files, again.sections or again.all_parameters.ingest.sections) == (("/a.tif",), (2, 4))
    finally:
        runs.cancel(first.id)


def test_a_run_moves_the_files_it_names_and_its_documents(runs, tmp_path):
    documents = tmp_path / "box" / "tag"
    documents.mkdir(parents=True)
    (documents / "tiles.csv").write_text("x")
    request = ask(tmp_path, 0, 2, documents=str(documents))
    (tmp_path / "acq" / "growing.tif").write_bytes(b"half")
    run = runs.start(request, wait=True)
    scratch = Path(run.work_path).parent
    assert [p.name for p in (scratch / "raw").iterdir()] == ["a.tif"]
    assert (scratch / "documents/tag/tiles.csv").read_text() == "x"
    spec = run.input["input"]["run"]
    assert (spec["acquisition"], spec["documents"]) == (str(scratch), str(scratch / "documents/tag"))


def test_a_folder_is_moved_without_what_is_no_image(runs, tmp_path):
    (tmp_path / "acq" / "m").mkdir(parents=True)
    for name in ("x.bmp", "operators.csv"):
        (tmp_path / "acq" / "m" / name).write_bytes(b"x")
    run = runs.start(ask(tmp_path, 0, 1, files=("/m/",)), wait=True)
    assert [p.name for p in (Path(run.work_path).parent / "raw/m").iterdir()] == ["x.bmp"]


@pytest.mark.parametrize("files", [("a.tif",), ("/../a",), ("/a//b",), (f"/{'x' * MAX_FILES_BYTES}",)])
def test_names_that_no_flow_takes(tmp_path, files):
    with pytest.raises(TaskError, match="files"):
        RunRequest.parse({"source": str(tmp_path), "files": files}, source="ask")


def test_names_fit_a_state(tmp_path):
    with pytest.raises(TaskError, match="names of more than"):
        RunRequest.parse({"source": "x", "files": [f"/tiles/{i:060d}" for i in range(2000)]}, source="ask")
