"""What is deployed: the lock file beside a site's profile. It holds ids and hashes, no secret; commit it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from flows.errors import DeployError
from flows.people import Uuid
from flows.site import Site, site_path
from functions.model.base import Document
from functions.model.errors import TaskError
from functions.store.files import write_json


class FunctionLock(Document):
    """A registered function, the SHA-256 of the text that it was registered with, and who may call it."""

    id: Uuid
    sha256: str
    group: Uuid | None = None


class FlowLock(Document):
    """A deployed flow. `sent` hashes what was asked for, `served` what the service then gave back."""

    id: Uuid
    sent: str
    served: str
    definition: str
    """SHA-256 of the definition as sent."""
    input_schema: str
    """SHA-256 of the input schema as sent."""
    updated_at: str
    """The service's own time of that change."""


class Lock(Document):
    """What one site has deployed."""

    version: Literal[1] = 1
    site: str
    package: str
    """Version of petavoxel that deployed; the workers should have it, too."""
    functions: dict[str, FunctionLock] = {}
    flow: FlowLock | None = None

    @property
    def function_ids(self) -> dict[str, str]:
        """Ids by name, for the flow's input."""
        return {name: function.id for name, function in self.functions.items()}


def digest(document: object) -> str:
    """SHA-256 of a text, or of a JSON document whatever the order of its keys."""
    text = document if isinstance(document, str) else json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def lock_path(name_or_path: str, *, home: Path) -> Path:
    """Beside the profile: `polaris.toml` has `polaris.lock.json`."""
    return site_path(name_or_path, home=home).with_suffix(".lock.json")


def read_lock(path: Path) -> Lock | None:
    """The lock, or None when nothing was deployed.

    Raises:
        DeployError: not a lock file.
    """
    try:
        return Lock.parse(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        return None
    except TaskError as error:
        raise DeployError(
            str(error), remedy="take it from version control, or remove it and deploy with --take-over"
        ) from None


def write_lock(path: Path, lock: Lock) -> None:
    """Write it whole or not at all; equal content gives equal bytes."""
    write_json(path, lock.to_json())


def deployed_site(site: Site, lock: Lock) -> Site:
    """The site with the ids of its registered functions, as a run's input needs them."""
    compute = site.compute.model_copy(update={"functions": lock.function_ids})
    return site.model_copy(update={"compute": compute})


def deployed(path: Path) -> Lock:
    """The lock of a site whose flow is deployed.

    Raises:
        DeployError: it is not.
    """
    lock = read_lock(path)
    if lock is None or lock.flow is None:
        raise DeployError(f"{path}: the flow is not deployed here", remedy="run `petavoxel flow deploy`")
    return lock
