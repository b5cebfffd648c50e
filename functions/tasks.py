"""The wire contract: what a flow sends to each step, and the small JSON it gets back.

A task names paths and parameters; it never carries pixels, labels or secrets. A shard's result stays under
`SHARD_RESULT_BYTES`, so that a flow's state (200 KB) holds 200 of them twice, as Globus Flows stores them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from functions.model.base import Document
from functions.model.parameters import Parameters

MAX_SHARDS = 200
MAX_PROBLEMS = 3
SHARD_RESULT_BYTES = 420
"""A shard's answer tells one problem, shortened; the marks and the report have them all."""
SHARD_PROBLEM_CHARACTERS = 62

StepName = Literal[
    "ingest", "stitch", "align_pairs", "align_solve", "align_render",
    "segment", "match", "reconcile", "relabel", "candidates", "resegment", "agglomerate", "finish", "publish",
]  # fmt: skip
FanOutName = Literal[
    "stitch", "align_pairs", "align_render", "segment", "match", "relabel", "candidates", "resegment"
]
STEPS: tuple[StepName, ...] = StepName.__args__  # type: ignore[attr-defined]
FAN_OUTS: tuple[FanOutName, ...] = FanOutName.__args__  # type: ignore[attr-defined]


MemoryGib = Annotated[float, Field(gt=0, le=65536)]


class RunSpec(Document):
    """Where a run works and with which parameters; the same in every task of a run."""

    work: str
    """Work root on the site's scratch: cells of all steps lie under it."""
    acquisition: str
    """The acquisition's folder on scratch."""
    documents: str | None = None
    """Folder with the acquisition.json and tiles.csv to read instead of what the microscope wrote; paths in
    them are relative to `acquisition`. None: the acquisition's folder describes itself."""
    parameters: Parameters = Parameters()
    memory_gib: MemoryGib | None = None
    """Memory of a worker that a unit of work may fill, interpreter and libraries with it; None: no limit.
    Results do not depend on it."""
    claiming: bool = True
    """Whether the site lets workers claim units; else they are dealt out, as by `fan_out.claiming=false`."""
    sentinel: Annotated[str, Field(pattern=r"^CANCEL(-[0-9a-f-]{36})?$")] = "CANCEL"
    """File of the work root that asks this run's shards to stop; other runs of the acquisition go on."""

    retry: str | None = None
    """Units in quarantine are tried again, once for each name that is given here."""

    @property
    def sentinel_path(self) -> Path:
        """Where the sentinel lies."""
        return Path(self.work) / self.sentinel


class StepTask(Document):
    """Task of a step that is one unit: ingest, align_solve, reconcile, finish, publish."""

    run: RunSpec


class PlanTask(Document):
    """Ask for the shards of a fan-out step."""

    run: RunSpec
    step: FanOutName
    function_id: str
    """Registered function that the shards call; comes back in every planned task."""
    shards: Annotated[int, Field(gt=0, le=MAX_SHARDS)] = MAX_SHARDS


class ShardTask(Document):
    """One shard of a planned fan-out step: `manifest` is the plan's file."""

    manifest: str
    shard: Annotated[int, Field(ge=0)]


class Problem(Document):
    """An expected failure: what, where, and what to do about it."""

    code: str
    subject: str
    remedy: str = ""


class StepResult(Document):
    """What every step answers. `status` is `ok`, `look` (passed, but a person should look) or `failed`."""

    step: str
    status: Literal["ok", "look", "failed"] = "ok"
    units: int = 0
    computed: int = 0
    reused: int = 0
    seconds: float = 0.0
    figures: dict[str, float] = {}
    paths: dict[str, str] = {}
    problems: tuple[Problem, ...] = ()
    problem_count: int = 0
    left: int = 0
    """Units of a fan-out that were not settled, as far as this worker saw when it ended."""


class ProbeTask(Document):
    """Ask a worker what it is made of, and whether it sees these folders."""

    folders: tuple[str, ...] = ()


class SeenFolder(Document):
    """A folder as a worker sees it."""

    path: str
    exists: bool
    writable: bool = False
    free_gib: float = 0.0


class ProbeResult(StepResult):
    """What a worker is made of. `paths` has versions, `figures` counts accelerators."""

    folders: tuple[SeenFolder, ...] = ()


class PlannedTask(Document):
    """One entry of a Compute v3 action's `tasks`."""

    function_id: str
    kwargs: dict[str, dict[str, str | int]]


class PlanResult(StepResult):
    """A plan: `tasks` goes straight into the next action's `tasks.$`."""

    tasks: tuple[PlannedTask, ...] = ()


class Title(Document):
    """A DataCite title."""

    title: str


class Creator(Document):
    """A DataCite creator."""

    creatorName: str  # noqa: N815


class Day(Document):
    """A DataCite date."""

    date: str
    dateType: Literal["Created"] = "Created"  # noqa: N815


class Subject(Document):
    """A DataCite subject."""

    subject: str


class ResourceType(Document):
    """A DataCite resource type."""

    resourceType: str = "Dataset"  # noqa: N815
    resourceTypeGeneral: str = "Dataset"  # noqa: N815


class CitationRecord(Document):
    """What a citation needs, in the names of the DataCite schema."""

    schemaVersion: str = "http://datacite.org/schema/kernel-4"  # noqa: N815
    titles: tuple[Title, ...]
    creators: tuple[Creator, ...] = ()
    publisher: str
    publicationYear: str  # noqa: N815
    dates: tuple[Day, ...]
    subjects: tuple[Subject, ...] = (Subject(subject="connectomics"), Subject(subject="electron microscopy"))
    formats: tuple[str, ...] = ("application/vnd.zarr",)
    types: ResourceType = ResourceType()
    version: str


class PublishedFile(Document):
    """A file of the bundle that stands for all others; its place follows from the entry's subject."""

    filename: str
    mime_type: str
    length: int
    sha256: str


class VolumeRecord(Document):
    """Figures of the volume. An index fixes a field's type when first seen: change names, never types."""

    acquisition_id: str
    instrument: str
    voxel_nm: tuple[float, float, float]
    size_vx: tuple[int, int, int]
    voxels: int
    sections: int
    segments: int
    labelled_fraction: float
    status: str


class SearchEntry(Document):
    """`content` of the volume's entry in a Globus Search index; z, y, x order. Flat and versioned."""

    schema_version: Literal["petavoxel-1"] = "petavoxel-1"
    dc: CitationRecord
    em: VolumeRecord
    files: tuple[PublishedFile, ...] = ()


class PublishResult(StepResult):
    """A checked bundle (`paths["bundle"]`) and the content of its Search entry; the flow adds the subject."""

    entry: SearchEntry


class ShardManifest(Document):
    """The plan's file: what the workers of a fan-out need to know; the units are in the ledger."""

    package: str
    """Release of this package that planned: keys of cells depend on it, so the workers' must be the same."""
    run: RunSpec
    step: FanOutName
    shards: int
    dealt: tuple[tuple[int, ...], ...] = ()
    """Lots of each shard where nothing is claimed."""
