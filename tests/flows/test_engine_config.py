"""Engines that cannot be are refused before anything is started; configurations, and what tracebacks say."""

from __future__ import annotations

import importlib.util
import traceback

import pytest

from flows.errors import SiteError
from flows.local.engines import check_engine
from flows.run import Runs
from flows.site import local_site
from tests.flows.engine_kinds import needs
from tests.flows.test_run import ask

real = needs("globus_compute_endpoint")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine_config": "e.yaml"}, "the process pool takes none; add --engine parsl"),
        pytest.param(
            {"engine": "globus-compute", "engine_config": "/no/e.yaml"},
            "/no/e.yaml: no such file",
            marks=real,
        ),
    ],
)
def test_engines_that_cannot_be_are_refused_before_a_run_is_kept(tmp_path, fields, message):
    site = local_site(tmp_path, entry_points="tests.flows.fake_steps").model_copy(update=fields)
    runs = Runs(site, home=tmp_path)
    (tmp_path / "acq").mkdir()
    with pytest.raises(SiteError, match=message):
        runs.start(ask(tmp_path / "acq"))
    assert runs.list() == []


@real
def test_a_folder_that_parsl_cannot_name_is_refused(tmp_path):
    site = local_site(tmp_path).model_copy(update={"engine": "globus-compute"})
    with pytest.raises(SiteError, match="spaces or quotes"):
        check_engine(site, tmp_path / "my runs")


def test_without_the_extra_the_remedy_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    site = local_site(tmp_path).model_copy(update={"engine": "globus-compute"})
    with pytest.raises(SiteError, match=r"pip install 'petavoxel\[hpc\]'"):
        check_engine(site, tmp_path)


@real
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: {type: GlobusComputeEngine, max_workers: [", "e.yaml: Invalid config syntax"),
        ("engine: {type: NoSuchEngine}", "e.yaml: 'NoSuchEngine' is not a valid engine"),
        ("engine: {type: ThreadPoolEngine}", "type GlobusComputeEngine is needed"),
        ("display_name: an endpoint", "type GlobusComputeEngine is needed"),
    ],
)
def test_configurations_that_do_not_load_are_refused(text, message):
    from flows.local.globus_engine import load_engine

    with pytest.raises(SiteError, match=message):
        load_engine(text, source="e.yaml")


def _fail(error: BaseException) -> str:
    try:
        raise error
    except BaseException:
        return traceback.format_exc()


def test_what_a_traceback_ends_with():
    from flows.local.interchange import raised

    assert raised(_fail(KeyError("z"))) == ("KeyError", "'z'")
    assert raised(_fail(SiteError("a: b", remedy="c"))) == ("SiteError", "a: b; c")
    assert raised(_fail(AssertionError())) == ("AssertionError", "AssertionError()")
    assert raised("parsl.errors.Lost: gone\n") == ("Lost", "gone")
