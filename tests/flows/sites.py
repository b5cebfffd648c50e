"""Filled-in site profiles for tests."""

from __future__ import annotations

import uuid
from pathlib import Path

from flows.endpoint import new_profile
from flows.site import Site, load_site, read_profile, site_path, unfilled

NAMESPACE = uuid.UUID("7f4a2a3e-0f0b-5b0a-9d55-8f1f2d3c4b5a")
STARTER = f"urn:globus:auth:identity:{uuid.uuid5(NAMESPACE, 'microscope')}"


def some_id(name: str) -> str:
    """A UUID that is always the same for a name."""
    return str(uuid.uuid5(NAMESPACE, name))


def fill(path: Path, **values: str) -> None:
    """Write plausible values where `site init` left `<...>`; `values` (dots as two underscores) win."""
    text = path.read_text(encoding="utf-8")
    for field, hint in unfilled(read_profile(path)).items():
        value = values.get(field.replace(".", "__"))
        if value is None:
            is_id = field.endswith(("_id", ".id"))
            known = {"people.starters[0]": STARTER, "compute.user_endpoint_config.account": "m1234"}
            folder = f"/data/{field.split('.')[0]}"
            value = some_id(field) if is_id else known.get(field, folder if "base" in field else "gpu")
            value = "/opt/petavoxel/venv" if field.endswith("environment") else value
        text = text.replace(f'"<{hint}>"', f'"{value}"', 1)
    path.write_text(text, encoding="utf-8")


def filled_site(home: Path, ready_made: str = "polaris", *, name: str = "lab") -> Site:
    """A complete profile under `home`."""
    path = home / "sites" / f"{name}.toml"
    new_profile(name, ready_made, path=path)
    fill(path)
    return load_site(name, home=home)


def filled_profile(folder: Path, ready_made: str = "slurm-gpu", **options: str) -> Path:
    """A profile of which only `[compute]` is filled in; collections are not needed for an engine."""
    path = site_path("mine", home=folder)
    new_profile("mine", ready_made, path=path)
    text = path.read_text()
    for line in text.splitlines():
        name = line.partition(" = ")[0]
        if name in options:
            text = text.replace(line, f"{name} = {options[name]}")
    path.write_text(text)
    return path
