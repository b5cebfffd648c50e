"""One boundary: every failure is a message, a remedy and an exit code; with JSON also a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ffn.config import ConfigError
from flows.errors import RunError
from functions.model.errors import AcquisitionError
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode, explain


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("PETAVOXEL_HOME", str(folder))
    return folder


def test_an_error_of_functions(tmp_path: Path) -> None:
    done = petavoxel("acquisition", "check", tmp_path / "nowhere")
    assert done.code == ExitCode.PUT_RIGHT
    assert done.out == ""
    assert done.err.startswith("error ")
    assert "no such folder" in done.err
    assert "remedy give the acquisition's folder" in done.err
    assert "Traceback" not in done.err


def test_with_json_the_document_holds_it(tmp_path: Path) -> None:
    done = petavoxel("acquisition", "check", tmp_path / "nowhere", "--output", "json")
    assert done.code == ExitCode.PUT_RIGHT
    assert done.document["error"]["code"] == "acquisition"
    assert done.document["error"]["remedy"] == "give the acquisition's folder"
    assert "no such folder" in done.document["error"]["message"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = petavoxel("--debug", "acquisition", "check", tmp_path / "nowhere")
    assert done.code == ExitCode.PUT_RIGHT
    assert "Traceback" in done.err
    assert "remedy" in done.err


def test_an_error_of_flows() -> None:
    done = petavoxel("run", "show", "0000", "--output", "json")
    assert done.code == ExitCode.PUT_RIGHT
    assert done.document["error"]["code"] == "run"
    assert done.document["error"]["remedy"]


def test_an_unknown_site() -> None:
    done = petavoxel("run", "list", "--site", "elsewhere", "--output", "json")
    assert done.code == ExitCode.PUT_RIGHT
    assert done.document["error"]["code"] == "site"
    assert "elsewhere" in done.document["error"]["message"]


def test_a_setting_with_a_typing_mistake(tmp_path: Path) -> None:
    done = petavoxel("run", "start", tmp_path, "--set", "segment.overlapp_px=24,24,24")
    assert done.code == ExitCode.PUT_RIGHT
    assert "did you mean segment.overlap_zyx_px" in done.err


def test_an_unknown_step(tmp_path: Path) -> None:
    done = petavoxel("run", "start", tmp_path, "--start-at", "stich")
    assert done.code == ExitCode.PUT_RIGHT
    assert "start_at" in done.err
    assert "'stitch'" in done.err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (("plan",), "either --shape-zyx or --volume"),
        (("run", "lst"), "No such command"),
        (("run", "list", "--ouput", "x"), "--ouput"),
        (("model", "import", "x.npz"), "--to"),
    ],
)
def test_usage_errors_are_documents_too(line: tuple[str, ...], says: str) -> None:
    done = petavoxel(*line, "--output", "json")
    assert done.code == ExitCode.USAGE
    assert done.document["error"]["code"] == "usage"
    assert says in done.document["error"]["message"]


def test_usage_errors_are_the_parsers() -> None:
    assert petavoxel("plan").code == ExitCode.USAGE
    assert petavoxel("plan", "--shape-zyx", "1,2").code == ExitCode.USAGE
    assert petavoxel("nothing").code == ExitCode.USAGE


def test_errors_of_ffn_and_files() -> None:
    failure, code = explain(ConfigError("recipe.toml: seeds: empty; give at least one"))
    assert (failure.code, failure.remedy, code) == ("model", "give at least one", ExitCode.PUT_RIGHT)
    failure, code = explain(FileNotFoundError(2, "No such file or directory", "x.npz"))
    assert (failure.message, code) == ("x.npz: No such file or directory", ExitCode.PUT_RIGHT)


def test_message_and_remedy_are_told_apart() -> None:
    for error in (AcquisitionError("a: b", remedy="do c"), RunError("a: b", remedy="do c")):
        failure, _ = explain(error)
        assert (failure.message, failure.remedy) == ("a: b", "do c")


def test_what_nobody_expected_is_a_bug() -> None:
    failure, code = explain(ZeroDivisionError("division by zero"))
    assert code == ExitCode.BUG
    assert failure.message == "ZeroDivisionError: division by zero"
    assert "--debug" in failure.remedy


def test_a_definition_that_is_none(tmp_path: Path) -> None:
    file = tmp_path / "flow.json"
    for text in ("{", "[]", json.dumps({"States": {"A": 1}})):
        file.write_text(text)
        done = petavoxel("flow", "lint", file)
        assert done.code == ExitCode.PUT_RIGHT
        assert "flow.json" in done.err
