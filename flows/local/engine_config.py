"""What an engine's blocks and workers are, in the format of a Compute endpoint's configuration (YAML).

It comes from a file that `globus-compute-endpoint render-user-config` made, from a site's profile (TOML),
whose template is rendered here, or is made up for workers on this machine.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from flows.errors import SiteError
from flows.local.worker import THREAD_VARIABLES
from functions.model.errors import TaskError

SOURCE_TEXT = "globus_compute_sdk.serialize.PureSourceTextInspect"
JSON_DATA = "globus_compute_sdk.serialize.JSONData"


def read_config(path: Path) -> str:
    """The configuration's text; a profile's template is rendered with its `[compute.user_endpoint_config]`.

    Raises:
        SiteError: a profile without template or environment, or with options that the template does not take.
    """
    return _rendered(path) if path.suffix == ".toml" else path.read_text(encoding="utf-8")


def _rendered(path: Path) -> str:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment

    from flows.endpoint import TEMPLATE, config_problems, endpoint_files
    from flows.site import ComputeSettings, read_profile

    compute = read_profile(path).get("compute", {})
    files = endpoint_files(path.stem, compute, allowed=())
    options = compute.get("user_endpoint_config", {})
    try:
        settings = ComputeSettings.parse(
            {"endpoint_id": "00000000-0000-0000-0000-000000000000", "template": compute["template"],
             "user_endpoint_config": options},
            source=f"{path}: compute",
        )  # fmt: skip
    except TaskError as error:
        raise SiteError(str(error)) from None
    if problems := config_problems(settings):
        raise SiteError(f"{path}: {'; '.join(problems)}", remedy="correct the named options")
    # as the endpoint does it: texts go in as JSON, so that none can add a line of its own
    values = {name: json.dumps(v) if isinstance(v, str) else v for name, v in options.items()}
    return SandboxedEnvironment(undefined=StrictUndefined).from_string(files[TEMPLATE]).render(values)


def local_config(*, workers: int, leash: Sequence[str], programs: Path) -> str:
    """Workers that are processes of this machine; `programs` has the command that starts them."""
    variables = [f"export {name}=1" for name in THREAD_VARIABLES]
    engine = {
        "type": "GlobusComputeEngine",
        "address": "127.0.0.1",
        "max_workers_per_node": workers,
        "cores_per_worker": 0.001,  # max_workers_per_node alone decides
        "max_retries_on_system_failure": 1,
        "heartbeat_period": 2,  # s; also how soon a dead worker is noticed
        "heartbeat_threshold": 60,
        "allowed_serializers": [SOURCE_TEXT, JSON_DATA],
        "job_status_kwargs": {"strategy_period": 1},
        "provider": {
            "type": "LocalProvider",
            "init_blocks": 1,
            "min_blocks": 1,
            "max_blocks": 1,
            "worker_init": "\n".join([f"export PATH={programs}:$PATH", *variables]),
            "launcher": {"type": "WrappedLauncher", "prepend": shlex.join(leash)},
        },
    }
    return json.dumps({"engine": engine})  # every JSON document is YAML
