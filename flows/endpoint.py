"""Ready-made sites: a profile to fill in, and the files that make its Compute endpoint.

They are package data under `flows/profiles/<name>/`. The endpoint's templates let a caller choose numbers,
queue and account within a schema; what a shell runs on the nodes is written in here, from the profile.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from flows.errors import SiteError
from flows.site import LOCAL, SITE_NAME, ComputeSettings
from functions.store.files import write_bytes

READY_MADE = {
    "polaris": "ALCF Polaris",
    "aurora": "ALCF Aurora",
    "perlmutter": "NERSC Perlmutter",
    "slurm-gpu": "a Slurm cluster with GPUs",
    "workstation": "one workstation",
}
TEMPLATE = "user_config_template.yaml.j2"
SCHEMA = "user_config_schema.json"
CONFIG = "config.yaml"


def new_profile(name: str, ready_made: str, *, path: Path) -> None:
    """Write a profile with `<...>` where only a person knows the value.

    Raises:
        SiteError: an unknown ready-made profile, an impossible name, or the file exists.
    """
    if name == LOCAL or not re.fullmatch(SITE_NAME, name):
        raise SiteError(f"{name!r}: not a site's name", remedy="use letters, digits, . _ and -, not `local`")
    text = _read(ready_made, "site.toml").replace("<name>", name)
    if path.exists():
        raise SiteError(f"{path}: exists already", remedy="edit it, or give the new site another name")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_bytes(path, text.encode())


def endpoint_files(site: str, compute: dict[str, Any], *, allowed: Sequence[str]) -> dict[str, str]:
    """The endpoint's files by name, for a profile whose `[compute]` table is `compute`.

    Takes the table as it stands in the file, since `endpoint_id` is known only when the endpoint has started.
    `allowed` are the ids of the only functions that it will run; none: any, until the flow is deployed.

    Raises:
        SiteError: `template` or `environment` is missing or does not fit.
    """
    placeholder = "00000000-0000-0000-0000-000000000000"
    wanted = {key: compute.get(key) for key in ("template", "environment")}
    for key, value in wanted.items():
        if not isinstance(value, str) or value.startswith("<"):
            raise SiteError(f"compute.{key}: not filled in yet", remedy="write it into the profile")
    settings = ComputeSettings.parse({"endpoint_id": placeholder, **wanted}, source=f"site {site}: compute")
    assert settings.template
    assert settings.environment
    template = _read(settings.template, TEMPLATE).replace("@environment@", settings.environment)
    return {CONFIG: _config(site, allowed), TEMPLATE: template, SCHEMA: _read(settings.template, SCHEMA)}


def config_problems(compute: ComputeSettings) -> list[str]:
    """What the endpoint's schema would refuse of `user_endpoint_config`, one line each, naming the field."""
    if compute.template is None:
        return []
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(json.loads(_read(compute.template, SCHEMA)))
    return [
        f"compute.user_endpoint_config{error.json_path.removeprefix('$')}: {error.message}"
        for error in validator.iter_errors(compute.user_endpoint_config)
    ]


def write_endpoint_files(folder: Path, texts: dict[str, str]) -> list[Path]:
    """Write the files; one that differs is kept beside it as `<name>.old`. Returns what was kept."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for name, text in texts.items():
        path = folder / name
        if path.exists() and path.read_text(encoding="utf-8") != text:
            kept.append(path.replace(path.with_name(f"{name}.old")))
        write_bytes(path, text.encode())
    return kept


def _config(site: str, allowed: Sequence[str]) -> str:
    """The manager's file: outgoing port 443 only, and nothing but the deployed functions."""
    lines = [f"display_name: {json.dumps(f'Petavoxel at {site}')}", "amqp_port: 443"]
    if allowed:
        lines += [
            "# A function that is registered anew gets a new id: write this file again then, and restart."
        ]
        lines += ["allowed_functions:", *(f"  - {id_}" for id_ in allowed)]
    else:
        lines += ["# Any function of whoever may use the endpoint, until the flow is deployed:"]
        lines += ["# deploy, write this file again, and restart."]
    return "\n".join(lines) + "\n"


def _read(ready_made: str, name: str) -> str:
    if ready_made not in READY_MADE:
        raise SiteError(f"{ready_made}: no ready-made profile", remedy=f"use one of {', '.join(READY_MADE)}")
    return (files("flows") / "profiles" / ready_made / name).read_text(encoding="utf-8")
