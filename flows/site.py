"""Where a flow runs: collections, Compute endpoint, Search index. A TOML profile, or the built-in `local`."""

from __future__ import annotations

import os
import tomllib
import uuid
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import Field, JsonValue

from flows.errors import SiteError
from functions.model.base import Document
from functions.model.errors import TaskError

HOME_VARIABLE = "PETAVOXEL_HOME"
LOCAL = "local"
_NAMESPACE = uuid.UUID("6f3b1d1c-5f1e-5b43-9a6e-0d1f5d0c7a11")


class Collection(Document):
    """A Globus collection, and where its root lies on the file system of those who see it as files."""

    id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    base_path: str

    def collection_path(self, path: Path) -> str:
        """The collection's own path (starting with /) of a file or folder under `base_path`.

        Raises:
            SiteError: `path` lies outside.
        """
        base = PurePosixPath(self.base_path)
        if not PurePosixPath(path).is_relative_to(base):
            raise SiteError(
                f"{path}: not under the collection's base path {base}",
                remedy="move it there, or correct base_path in the site profile",
            )
        return "/" + str(PurePosixPath(path).relative_to(base)).removeprefix(".")

    def file_path(self, path: str) -> Path:
        """The file-system path of a collection path."""
        return Path(self.base_path) / path.lstrip("/")


class ComputeSettings(Document):
    """The Compute endpoint and the ids of the functions registered for it, by name."""

    endpoint_id: Annotated[str, Field(pattern=r"^[0-9a-f-]{36}$")]
    user_endpoint_config: dict[str, JsonValue] = {}
    functions: dict[str, str] = {}


class Site(Document):
    """One place where flows run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
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
    gpus_per_node: Annotated[int, Field(ge=1, le=1024)] | None = None
    """What `petavoxel plan --site` counts node-hours by."""
    shards: Annotated[int, Field(ge=1, le=200)] = 200
    """At most this many tasks a fan-out."""
    entry_points: str = "functions.entrypoints"
    """Embedded site: the module whose ENTRY_POINTS are its registered functions."""

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


def load_site(name_or_path: str, *, home: Path, workers: int | None = None) -> Site:
    """The profile `local`, a TOML file, or `<home>/sites/<name>.toml`.

    Raises:
        SiteError: no such profile, not TOML, or fields that do not fit.
    """
    if name_or_path == LOCAL:
        return local_site(home, workers=workers)
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = home / "sites" / f"{name_or_path}.toml"
    try:
        payload: dict[str, Any] = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise SiteError(
            f"{path}: no such site profile", remedy="use --site local, or write the profile"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SiteError(f"{path}: not TOML: {error}", remedy="correct the file") from None
    try:
        site = Site.parse(payload, source=str(path))
    except TaskError as error:
        raise SiteError(str(error)) from None
    if site.embedded:
        raise SiteError(f"{path}: name: {LOCAL!r} is built in", remedy="give the site another name")
    return site
