"""Engines that cannot be are refused before anything is started; configurations, and what tracebacks say."""

from __future__ import annotations

import importlib.util
import traceback

import pytest

from flows.errors import AuthError, SiteError
from flows.local.engine_config import local_config, read_config
from flows.local.engines import check_engine
from flows.records import RunStatus
from flows.run import Runs
from flows.site import local_site, site_path
from tests.flows.batch import FakePbs, FakeSlurm
from tests.flows.engine_kinds import needs
from tests.flows.sites import filled_profile, filled_site
from tests.flows.test_run import ask

real = needs("globus_compute_endpoint")
parsl = needs("parsl")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"engine_config": "e.yaml"}, "the process pool takes none; add --engine parsl"),
        pytest.param(
            {"engine": "globus-compute", "engine_config": "/no/e.yaml"},
            "/no/e.yaml: no such file",
            marks=real,
        ),
        pytest.param(
            {"engine": "parsl", "engine_config": "/no/e.yaml"}, "/no/e.yaml: no such file", marks=parsl
        ),
        ({"engine": "compute-endpoint"}, r"which one\?; name the site's profile"),
        ({"engine": "compute-endpoint", "engine_config": "/no/e.yaml"}, r"which one\?"),
        ({"engine": "compute-endpoint", "engine_config": "/no/e.toml"}, "/no/e.toml: no such file"),
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


# -- Parsl's executor from the configuration of an endpoint -------------------------------------------------
@parsl
@pytest.mark.parametrize("cluster", [FakeSlurm, FakePbs], ids=["slurm", "pbs"])
def test_an_endpoints_configuration_becomes_parsls_executor(cluster, tmp_path):
    from flows.local.parsl_engine import load_executor

    text = cluster(tmp_path).engine_config(
        available_accelerators=["0", "0", "1", "1"], max_workers_per_node=4
    )
    loaded = load_executor(text, source="e.yaml")
    provider = loaded.executor.provider
    assert (
        type(provider).__name__
        == {"FakeSlurm": "SlurmProvider", "FakePbs": "PBSProProvider"}[cluster.__name__]
    )
    assert (provider.account, provider.walltime, provider.init_blocks) == ("m1234", "00:30:00", 0)
    assert loaded.executor.available_accelerators == ["0", "0", "1", "1"]  # two workers a GPU
    assert loaded.executor.workers_per_node == 4
    assert loaded.polling == {"strategy": "simple", "max_idletime": 2, "strategy_period": 1}
    assert loaded.retries == 1


@parsl
def test_workers_of_this_machine_need_no_file(tmp_path):
    from flows.local.parsl_engine import load_executor

    loaded = load_executor(local_config(workers=3, leash=["leash"], programs=tmp_path), source="built in")
    assert type(loaded.executor.provider).__name__ == "LocalProvider"
    assert loaded.executor.max_workers_per_node == 3


@parsl
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("engine: {type: HighThroughputExecutor, provider: [", "e.yaml: engine: ParserError"),
        ("display_name: an endpoint", "e.yaml: engine: KeyError"),
        ("engine: {type: ThreadPoolEngine}", "engine.type: 'ThreadPoolEngine': one of GlobusComputeEngine"),
        (
            "engine: {type: HighThroughputExecutor, provider: {type: MyProvider}}",
            "engine.provider.type: 'MyProvider': Parsl has LocalProvider, ",
        ),
        (
            "engine: {type: HighThroughputExecutor, provider: {type: SlurmProvider, nodes: 3}}",
            "engine.provider: .*unexpected keyword argument 'nodes'",
        ),
        (
            "engine: {type: HighThroughputExecutor, provider: {type: LocalProvider, launcher: {type: exec}}}",
            "engine.provider.launcher.type: 'exec': Parsl has SimpleLauncher",
        ),
        (
            "engine: {type: HighThroughputExecutor, address: {type: system, command: x}}",
            "engine.address.type: 'system': a function address_by_",
        ),
        (
            "engine: {type: HighThroughputExecutor, max_workers_per_node: many}",
            "engine: .*max_workers_per_node",
        ),
    ],
)
def test_what_parsl_does_not_take_is_refused_by_its_field(text, message):
    from flows.local.parsl_engine import load_executor

    with pytest.raises(SiteError, match=message):
        load_executor(text, source="e.yaml")


# -- a site's profile as the engine's configuration ---------------------------------------------------------
@parsl
def test_a_profile_is_rendered_as_its_endpoint_would_render_it(tmp_path):
    from flows.local.parsl_engine import load_executor

    path = filled_profile(
        tmp_path,
        environment='"/env"', account='"m1234"', queue='"gpu"', workers_per_node="8", accelerators="4",
    )  # fmt: skip
    text = read_config(path).replace("engine:\n", "engine:\n  address: 127.0.0.1\n")  # it would look for one
    loaded = load_executor(text, source=str(path))
    provider = loaded.executor.provider
    assert type(provider).__name__ == "SlurmProvider"
    assert (provider.account, provider.partition, provider.walltime) == ("m1234", "gpu", "06:00:00")
    assert provider.worker_init.strip() == "source /env/bin/activate || exit 1"
    assert provider.max_blocks == 4
    assert loaded.executor.available_accelerators == [str(w // 2) for w in range(8)]
    assert loaded.polling["strategy_period"] == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"environment": '"/env"', "queue": '"gpu"', "account": '"a b\\n#SBATCH x"'},
            "account: .*does not match",
        ),
        ({"environment": '"/env"', "workers_per_node": "1000"}, "workers_per_node: 1000 is greater than"),
        ({"queue": '"gpu"'}, "compute.environment: not filled in yet"),
    ],
)
def test_a_profile_whose_options_do_not_fit_is_refused(options, message, tmp_path):
    path = filled_profile(tmp_path, **{"queue": '"q"', "account": '"a"', **options})
    with pytest.raises(SiteError, match=message):
        read_config(path)


def test_an_endpoint_without_a_login_is_refused_before_the_run_goes_to_the_background(tmp_path, monkeypatch):
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path))
    profile = filled_site(tmp_path, "slurm-gpu")
    named = {"engine": "compute-endpoint", "engine_config": str(site_path(profile.name, home=tmp_path))}
    site = local_site(tmp_path, entry_points="tests.flows.fake_steps").model_copy(update=named)
    (tmp_path / "acq").mkdir()
    runs = Runs(site, home=tmp_path)
    with pytest.raises(AuthError, match="a login at Globus is needed, and this is no terminal"):
        runs.start(ask(tmp_path / "acq"))
    assert runs.list() == []


def test_naming_an_engine_begins_a_new_run_that_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (tmp_path / "acq").mkdir()
    site = local_site(tmp_path / "home", workers=1, entry_points="tests.flows.fake_steps")
    first = Runs(site, home=tmp_path / "home").start(ask(tmp_path / "acq"), wait=True)
    named = Runs(site.model_copy(update={"engine": "process-pool"}), home=tmp_path / "home")
    again = named.rerun(first.id, start_at="segment", stop_after="segment", wait=True)
    assert (again.status, again.parent_run) == (RunStatus.SUCCEEDED, first.id)
