"""Where a flow runs: collections, endpoint, index, people. A TOML profile, or the built-in `local`."""

from __future__ import annotations

import os
import tomllib
import uuid
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from flows.errors import SiteError
from flows.people import AuthSettings, People, Uuid
from functions.model.base import Document
from functions.model.errors import TaskError
from functions.tasks import MemoryGib

HOME_VARIABLE = "PETAVOXEL_HOME"
LOCAL = "local"
EngineName = Literal["process-pool", "parsl", "globus-compute", "compute-endpoint"]
ENGINES_OF_PARSL: tuple[EngineName, ...] = ("parsl", "globus-compute")
"""Those that write batch scripts and keep an interchange on this machine."""
SITE_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_NAMESPACE = uuid.UUID("6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11")


class Collection(Document):
    """A Globus collection, and where a folder of it lies on the file system of those who see it as files."""

    id: Uuid
    base_path: str
    """The folder, as the workers (of the instrument: the microscope's machine) see it."""
    root: Annotated[str, Field(pattern=r"^/")] = "/"
    """The same folder, as the collection names it."""
    data_access: bool = False
    """A mapped collection of Globus Connect Server that is not high assurance: it wants its own consent."""

    def collection_path(self, path: Path) -> str:
        """The collection's own path (starting with /) of a file or folder under `base_path`.

        Raises:
            SiteError: `path` lies outside.
        """
        return str(PurePosixPath(self.root) / _below(PurePosixPath(path), self.base_path, "base_path"))

    def file_path(self, path: str) -> Path:
        """The file-system path of a collection path.

        Raises:
            SiteError: `path` lies outside.
        """
        return Path(self.base_path) / _below(PurePosixPath(path), self.root, "root")


def _below(path: PurePosixPath, folder: str, field: str) -> PurePosixPath:
    """`path` relative to a collection's folder."""
    if not path.is_relative_to(folder):
        raise SiteError(
            f"{path}: not under the collection's {field} {folder}",
            remedy=f"move it there, or correct {field} in the site profile",
        )
    return path.relative_to(folder)


class ComputeSettings(Document):
    """The Compute endpoint, how each run asks it for nodes, and what its workers are."""

    endpoint_id: Uuid
    user_endpoint_config: dict[str, JsonValue] = {}
    """Queue, account, walltime, nodes, workers: what the endpoint's schema takes."""
    functions: dict[str, str] = {}
    """Ids of the registered functions by name; `flows.lock.deployed_site` takes them from the lock."""
    template: Literal["polaris", "aurora", "perlmutter", "slurm-gpu", "workstation"] | None = None
    """Which of the shipped endpoint files the endpoint runs on; None: files of its own."""
    environment: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$")] | None = None
    """Folder of the workers' Python environment; it goes into a shell script, hence so few characters."""
    callers_group: Uuid | None = None
    """Globus group whose members may call the registered functions; None: only who registered them."""


class Site(Document):
    """One place where flows run."""

    name: Annotated[str, Field(pattern=SITE_NAME)]
    instrument: Collection
    scratch: Collection
    publication: Collection
    compute: ComputeSettings
    search_index: str | None = None
    search_visible_to: tuple[str, ...] = ()
    """Identity or group URNs that find the published volume."""
    publication_reader: str | None = None
    """UUID of the Globus group that may read what is published; None leaves the collection's permissions."""
    workers: Annotated[int, Field(ge=1, le=1024)] = 1
    memory_gib: MemoryGib | None = None
    """Memory that a unit of work may fill of its worker's; None: no limit. `--memory-gib` goes before it."""
    gpus_per_node: Annotated[int, Field(ge=1, le=1024)] | None = None
    """What `petavoxel plan --site` counts node-hours by."""
    device_gib: Annotated[float, Field(gt=0, le=65536)] | None = None
    """Memory of one GPU: what `petavoxel plan --site` fits subvolumes to."""
    shards: Annotated[int, Field(ge=1, le=200)] = 200
    """At most this many tasks a fan-out."""
    claiming: bool = True
    """Workers claim units on scratch; false deals them out beforehand, where files are not created
    exclusively."""
    entry_points: str = "functions.entrypoints"
    """The module whose ENTRY_POINTS are the registered functions."""
    engine: EngineName | None = None
    """Embedded site: what carries tasks out; None takes that of the run that is repeated, else the pool."""
    engine_config: str | None = None
    """Embedded site: the engine's blocks and workers: a site's profile (TOML), or an endpoint's rendered
    configuration (YAML)."""
    people: People = People()
    auth: AuthSettings | None = None
    subscription_id: Uuid | None = None
    """Globus subscription of the flow; without one the service keeps a single flow, for 30 days."""

    @model_validator(mode="after")
    def _who_finds_it(self) -> Site:
        if self.search_index and not self.search_visible_to:
            raise ValueError("search_visible_to: say who may find what search_index gets")
        return self

    @property
    def embedded(self) -> bool:
        """Whether this is the site inside this package."""
        return self.name == LOCAL


def home_folder() -> Path:
    """`$PETAVOXEL_HOME`, else `~/.petavoxel`; created for its owner alone (0700)."""
    home = Path(os.environ.get(HOME_VARIABLE) or Path.home() / ".petavoxel").expanduser().resolve()
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    return home


def available_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_site(
    home: Path, *, workers: int | None = None, entry_points: str = "functions.entrypoints"
) -> Site:
    """The built-in profile `local`: everything on this machine, under `home`; any folder is an instrument."""
    home = home.resolve()

    def collection(name: str, base: Path) -> Collection:
        return Collection(id=str(uuid.uuid5(_NAMESPACE, name)), base_path=str(base))

    return Site(
        name=LOCAL,
        instrument=collection("instrument", Path("/")),
        scratch=collection("scratch", home / "scratch"),
        publication=collection("publication", home / "published"),
        compute=ComputeSettings(endpoint_id=str(uuid.uuid5(_NAMESPACE, "compute"))),
        search_index=str(uuid.uuid5(_NAMESPACE, "search")),
        search_visible_to=(f"urn:globus:auth:identity:{uuid.uuid5(_NAMESPACE, 'owner')}",),
        workers=workers or available_cores(),
        entry_points=entry_points,
    )


def site_path(name_or_path: str, *, home: Path) -> Path:
    """The TOML file of a profile: itself, or `<home>/sites/<name>.toml`."""
    path = Path(name_or_path)
    return path if path.suffix == ".toml" else home / "sites" / f"{name_or_path}.toml"


def load_site(name_or_path: str, *, home: Path, workers: int | None = None) -> Site:
    """The profile `local`, a TOML file, or `<home>/sites/<name>.toml`.

    Raises:
        SiteError: no such profile, not TOML, not filled in yet, or fields that do not fit.
    """
    if name_or_path == LOCAL:
        return local_site(home, workers=workers)
    path = site_path(name_or_path, home=home)
    payload = read_profile(path)
    if empty := unfilled(payload):
        raise SiteError(
            f"{path}: not filled in yet: " + "; ".join(f"{field}: {hint}" for field, hint in empty.items()),
            remedy="write the values into the file",
        )
    try:
        site = Site.parse(payload, source=str(path))
    except TaskError as error:
        raise SiteError(str(error)) from None
    if site.embedded:
        raise SiteError(f"{path}: name: {LOCAL!r} is built in", remedy="give the site another name")
    return site


def read_profile(path: Path) -> dict[str, Any]:
    """The profile's content, not checked.

    Raises:
        SiteError: no such profile, or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SiteError(
            f"{path}: no such site profile", remedy="use --site local, or `petavoxel site init` one"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{path}: not TOML: {error}", remedy="correct the file") from None


def unfilled(payload: object, *, field: str = "") -> dict[str, str]:
    """The `<...>` that `site init` left for a person to fill in: hint by field."""
    if isinstance(payload, dict):
        items = [(f"{field}.{key}".lstrip("."), value) for key, value in payload.items()]
    elif isinstance(payload, list):
        items = [(f"{field}[{index}]", value) for index, value in enumerate(payload)]
    else:
        empty = isinstance(payload, str) and payload.startswith("<") and payload.endswith(">")
        return {field: str(payload)[1:-1]} if empty else {}
    return {name: hint for key, value in items for name, hint in unfilled(value, field=key).items()}
