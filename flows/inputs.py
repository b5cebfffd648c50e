"""From what a user asks for to the flow's input document."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator

from flows.errors import InputError, SiteError
from flows.records import FLOW_STEPS, TRANSFER
from flows.site import Site
from functions.model.base import Document
from functions.model.parameters import Parameters
from functions.tasks import MAX_SHARDS, MemoryGib, RunSpec

FlowStep = Literal[
    "transfer", "ingest", "stitch", "align_pairs", "align_solve", "align_render",
    "segment", "match", "reconcile", "relabel", "candidates", "resegment", "agglomerate", "finish", "publish",
]  # fmt: skip
OnGateFail = Literal["stop", "continue"]
Uuid = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$")]
_PART = r"([^./][^/]*|\.[^./][^/]*|\.\.[^/]+)"
CollectionPath = Annotated[str, Field(pattern=rf"^/({_PART}/)*{_PART}?$", max_length=4096)]
"""Absolute, without `.` and `..` and empty parts."""


Tag = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")]
FileName = Annotated[str, Field(pattern=rf"^/({_PART}/)*{_PART}?$", max_length=1024)]
"""A file of the acquisition's folder, or (ending in /) a folder below it; begins with /."""
ALL_FILES = ("/",)
OWN_FILES = "files:own"
"""Tag of a run that moves named files, not the whole folder."""
OWN_MEMORY = "memory:own"
"""Tag of a run that was given the memory of a worker, instead of taking its site's."""
MAX_FILES_BYTES = 100_000
"""Of the names of a run's files: half of what a flow's state may hold."""
IMAGE_PATTERNS = ("*.tif", "*.tiff", "*.bmp", "*.png", "*.jpg", "*.jpeg", "*.mrc", "*.st")
DOCUMENT_PATTERNS = ("acquisition.json", "tiles.csv", "findings.json")


class RunRequest(Document):
    """What a user asks for. Nothing here names a site: the same request can go to another one."""

    source: str
    """The acquisition's folder, as the instrument collection's file system shows it."""
    start_at: FlowStep = "transfer"
    stop_after: FlowStep = "publish"
    sections: tuple[int, int] | None = None
    """First and last-plus-one z index; None leaves `parameters.ingest.sections` as it is."""
    parameters: Parameters = Parameters()
    on_gate_fail: OnGateFail = "stop"
    """What becomes of a registered stack that the gate fails: `stop` before more is computed, or go on."""
    memory_gib: MemoryGib | None = None
    """Memory of a worker; None takes the site's. Results do not depend on it."""
    retry_quarantined: bool = False
    """Try those units again that were put into quarantine."""
    label: str = ""
    parent: str | None = None
    """Id of the run that this one is a rerun of."""
    acquisition_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] | None = None
    """Name of the acquisition at the site; by default `id` of acquisition.json, else the folder's name."""
    tags: Annotated[tuple[Tag, ...], Field(max_length=16)] = ()
    """Further tags of the run, beside those that every run carries (`tags_of`)."""
    files: tuple[FileName, ...] = ALL_FILES
    """What the transfer moves. Of folders nothing but images is moved, unless it is the whole one and its
    documents are the microscope's."""
    documents: str | None = None
    """Folder on the instrument collection with an acquisition.json and tiles.csv that describe the
    acquisition to the site instead of what the microscope wrote. Paths in them begin with raw/ (what `files`
    become there) or documents/<this folder's name>/."""

    @field_validator("files")
    @classmethod
    def _fits_a_state(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if sum(len(name.encode()) + 4 for name in files) > MAX_FILES_BYTES:
            raise ValueError(f"names of more than {MAX_FILES_BYTES} bytes; name folders, or fewer sections")
        return files

    @property
    def all_parameters(self) -> Parameters:
        """`parameters` with `sections` put in."""
        if self.sections is None:
            return self.parameters
        ingest = self.parameters.ingest.model_copy(update={"sections": self.sections})
        return self.parameters.model_copy(update={"ingest": ingest})


class Place(Document):
    """A folder of a collection."""

    id: Uuid
    path: CollectionPath


class FunctionIds(Document):
    """Ids of the registered functions that the flow calls."""

    plan: Uuid
    ingest: Uuid
    stitch: Uuid
    align_pairs: Uuid
    align_solve: Uuid
    align_render: Uuid
    segment: Uuid
    match: Uuid
    reconcile: Uuid
    relabel: Uuid
    candidates: Uuid
    resegment: Uuid
    agglomerate: Uuid
    finish: Uuid
    publish: Uuid


class ComputeInput(Document):
    """The endpoint, how to configure it, and which registered function does what."""

    endpoint_id: Uuid
    user_endpoint_config: dict[str, JsonValue]
    functions: FunctionIds


class SearchInput(Document):
    """The index that gets a record of the published volume, and who may see it."""

    index: Uuid
    visible_to: Annotated[tuple[str, ...], Field(min_length=1)]


class PermissionInput(Document):
    """Who may read the published folder."""

    principal: str
    principal_type: Literal["identity", "group"]


class DocumentsInput(Document):
    """Where the documents of a run come from and go to, as paths of the two collections."""

    source: CollectionPath
    destination: CollectionPath


class FilterRule(Document):
    """A rule of Transfer about names inside the folders that it moves; the first that matches counts."""

    method: Literal["include", "exclude"]
    type: Literal["file"]
    name: str


class FlowInput(Document):
    """The flow's input document, under `$.input`."""

    label: Annotated[str, Field(max_length=64)]
    acquisition_id: str
    start_at: FlowStep
    stop_after: FlowStep
    on_gate_fail: Annotated[OnGateFail, Field(json_schema_extra={"default": "stop"})]
    agglomerate: Annotated[bool, Field(json_schema_extra={"default": False})]
    """Whether `run.parameters.candidates` asks for pairs to be looked at again."""
    shards: Annotated[int, Field(ge=1, le=MAX_SHARDS)]
    run: RunSpec
    source: Place
    raw: Place
    """The acquisition's copy on scratch."""
    files: tuple[FileName, ...]
    """Below `source.path`, and then below `raw.path`."""
    filter_rules: tuple[FilterRule, ...]
    documents: Annotated[tuple[DocumentsInput, ...], Field(max_length=1)]
    work: Place
    """The work root on scratch, as Transfer sees it; `run.work` is the same folder as the workers see it."""
    publication: Place
    """The folder under which each run publishes a folder of its own."""
    compute: ComputeInput
    search: SearchInput | None = None
    permission: PermissionInput | None = None


def build_input(request: RunRequest, site: Site, *, functions: dict[str, str]) -> dict[str, Any]:
    """The document to start the flow with: `{"input": {...}}`; optional parts that are absent are left out.

    `functions` maps the names of registered functions to their ids.

    Raises:
        InputError: the steps are in the wrong order, the folder does not exist, or it has no usable name.
    """
    if FLOW_STEPS.index(request.start_at) > FLOW_STEPS.index(request.stop_after):
        raise InputError(
            f"start_at: {request.start_at} comes after stop_after: {request.stop_after}",
            remedy=f"the order is {', '.join(FLOW_STEPS)}",
        )
    source = Path(request.source).expanduser().resolve()
    if request.start_at == TRANSFER and not source.is_dir():
        raise InputError(f"{source}: not a folder", remedy="give the folder that the microscope wrote")
    name = request.acquisition_id or acquisition_name(source)
    scratch = Path(site.scratch.base_path) / name
    documents, described = _documents(request, site, scratch)
    publication = Path(site.publication.base_path) / name
    search = (
        SearchInput(index=site.search_index, visible_to=site.search_visible_to) if site.search_index else None
    )
    principal = site.publication_reader
    document = FlowInput(
        label=(request.label or name)[:64],
        acquisition_id=name,
        start_at=request.start_at,
        stop_after=request.stop_after,
        on_gate_fail=request.on_gate_fail,
        agglomerate=bool(request.all_parameters.candidates.sources),
        shards=site.shards,
        run=RunSpec(
            work=str(scratch / "work"),
            acquisition=str(scratch / "raw" if described is None else scratch),
            documents=described,
            parameters=request.all_parameters,
            claiming=site.claiming,
            retry=str(uuid.uuid4()) if request.retry_quarantined else None,
            memory_gib=site.memory_gib if request.memory_gib is None else request.memory_gib,
        ),
        source=Place(id=site.instrument.id, path=site.instrument.collection_path(source)),
        raw=Place(id=site.scratch.id, path=site.scratch.collection_path(scratch / "raw")),
        files=request.files,
        filter_rules=_filter_rules(request),
        documents=documents,
        work=Place(id=site.scratch.id, path=site.scratch.collection_path(scratch / "work")),
        publication=Place(id=site.publication.id, path=site.publication.collection_path(publication)),
        compute=ComputeInput(
            endpoint_id=site.compute.endpoint_id,
            user_endpoint_config=site.compute.user_endpoint_config,
            functions=FunctionIds.parse(
                {name: functions[name] for name in FunctionIds.model_fields if name in functions},
                source=f"functions of site {site.name}",
            ),
        ),
        search=search,
        permission=PermissionInput(principal=principal, principal_type="group") if principal else None,
    )
    payload = document.model_dump(mode="json")
    absent = [name for name in ("search", "permission") if payload[name] is None]
    return {"input": {key: value for key, value in payload.items() if key not in absent}}


def _documents(
    request: RunRequest, site: Site, scratch: Path
) -> tuple[tuple[DocumentsInput, ...], str | None]:
    """The way of a request's documents, and where the workers find them."""
    if request.documents is None:
        return (), None
    source = Path(request.documents).resolve()
    if request.start_at == TRANSFER and not source.is_dir():
        raise InputError(f"documents: {source}: not a folder", remedy="write them, or leave them out")
    here = scratch / "documents" / source.name
    try:
        place = site.instrument.collection_path(source)
    except SiteError as error:
        remedy = "give --outbox a folder that the instrument collection shows"
        raise SiteError(f"documents: {error}", remedy=remedy) from None
    way = DocumentsInput(
        source=place + "/",
        destination=site.scratch.collection_path(here) + "/",
    )
    return (way,), str(here)


def _filter_rules(request: RunRequest) -> tuple[FilterRule, ...]:
    """Only images leave with a folder: what else a microscope keeps there may name people.

    PROVISIONAL: that the rules leave alone the files that a transfer names itself; so far no request names
    both folders and files.
    """
    described = request.documents is not None
    if not any(name.endswith("/") and (name != "/" or described) for name in request.files):
        return ()
    patterns = (*IMAGE_PATTERNS, *(pattern.upper() for pattern in IMAGE_PATTERNS), *DOCUMENT_PATTERNS)
    wanted = [FilterRule(method="include", type="file", name=pattern) for pattern in patterns]
    return (*wanted, FilterRule(method="exclude", type="file", name="*"))


def tags_of(request: RunRequest, acquisition_id: str) -> tuple[str, ...]:
    """What a run can be filtered by in the Globus web app: its acquisition, sections, stage, the run it
    repeats, and its own tags."""
    sections = request.all_parameters.ingest.sections
    return (
        f"acquisition:{acquisition_id}",
        *([f"sections:{sections[0]}-{sections[1]}"] if sections else []),
        f"stage:{request.start_at}-{request.stop_after}",
        *([OWN_FILES] if request.files != ALL_FILES else []),
        *([OWN_MEMORY] if request.memory_gib is not None else []),
        *([f"parent:{request.parent}"] if request.parent else []),
        *request.tags,
    )


def parent_of(tags: tuple[str, ...]) -> str | None:
    """The run that a run with these tags repeats."""
    return next((tag.removeprefix("parent:") for tag in tags if tag.startswith("parent:")), None)


def request_of(document: dict[str, Any], site: Site, *, tags: tuple[str, ...]) -> RunRequest:
    """What was asked for, from the input and the tags of the run that came of it: what it took from its site,
    a rerun takes from the one that carries it out."""
    facts = FlowInput.parse(document["input"], source="run input")
    common = ("acquisition:", "sections:", "stage:", "files:", "memory:", "parent:")
    documents = [site.instrument.file_path(way.source) for way in facts.documents]
    return RunRequest(
        source=str(site.instrument.file_path(facts.source.path)),
        start_at=facts.start_at,
        stop_after=facts.stop_after,
        parameters=facts.run.parameters,
        memory_gib=facts.run.memory_gib if OWN_MEMORY in tags else None,
        on_gate_fail=facts.on_gate_fail,
        label=facts.label,
        parent=parent_of(tags),
        acquisition_id=facts.acquisition_id,
        files=facts.files,
        documents=str(documents[0]) if documents else None,
        tags=tuple(tag for tag in tags if not tag.startswith(common)),
    )


def acquisition_name(source: Path) -> str:
    """`id` of the folder's acquisition.json if it has one, else the folder's name made safe.

    Raises:
        InputError: neither gives a name.
    """
    name = source.name
    manifest = source / "acquisition.json"
    if manifest.is_file():
        try:
            payload = json.loads(manifest.read_bytes())
        except ValueError as error:
            raise InputError(f"{manifest}: not JSON: {error}", remedy="correct the file") from None
        if isinstance(payload, dict) and isinstance(payload.get("id"), str):
            name = payload["id"]
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip("._-")[:100]
    if not safe:
        raise InputError(f"{source}: no usable name", remedy="give the acquisition an id")
    return safe
