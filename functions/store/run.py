"""A run's view of its work root: which cell each unit of each step lives in.

Every key follows from the acquisition's content and the parameters alone, so any step can be started on any
worker at any time and finds what came before it; nothing but paths and parameters travels through the flow.

    tiles ─► stitch(z) ─┬► pair(a,b) ─► solve ─► render ─► segment ─► match ─► reconcile ─► relabel ┐
                        └────────────────────────┘     finish ◄─ agglomerate ◄─ resegment ◄─ candidates ◄────┘
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from functions.model.acquisition import Acquisition, Finding, Section
from functions.model.base import Document
from functions.model.errors import UpstreamError
from functions.model.parameters import Parameters
from functions.model.volume import VolumeRef
from functions.store import named
from functions.store.cells import CODE_VERSION, Cell
from functions.store.files import fingerprint, sha256_file
from functions.tasks import RunSpec, StepName

NOT_IN_PAIRS = {
    "neighbours",
    "far_neighbours",
    "stiffness",
    "locked_solution",
    "unlocked_sections",
    "trust_stage",
    "window_px",
}
"""Parameters of the align steps that a pair's matches do not depend on."""
NOT_IN_LABELS = {"model", "at_once", "allow_ungated", "checkpoint_seconds"}
"""Parameters of the segment step that its results do not depend on; the model counts by its content."""
OWN_CELLS: tuple[StepName, ...] = ("stitch", "align_pairs")
"""Steps whose units have a cell each."""


class IngestedSection(Document):
    """A section after tile QC: `section.tiles` are the usable tiles; `fingerprint` covers their content."""

    section: Section
    fingerprint: str
    sha256: tuple[str, ...] = ()
    """Of each usable tile's file, in their order; none in manifests that were written without."""


class IngestManifest(Document):
    """What ingest found; all later steps read the acquisition from here."""

    acquisition: Acquisition
    """As the adapter read it, bad tiles included."""
    sections: tuple[IngestedSection, ...]
    """Sections with at least one usable tile, ascending in z: what the later steps work on."""
    findings: tuple[Finding, ...] = ()
    """Bad tiles, missing sections and the like, each naming file and field."""


class AlignedVolume(Document):
    """Written by align_solve (`solution.json`): the frame that align_render fills. Row i is `sections[i]`."""

    volume: VolumeRef
    sections: tuple[int, ...]
    """z indices of the acquisition, one a volume row; a missing section has a row without data."""


class Run:
    """Paths and keys of one run. Cheap to build; reads the ingest manifest on first need."""

    def __init__(self, spec: RunSpec, *, stop: Callable[[], bool] = lambda: False) -> None:
        """Args:
        stop: asked in the middle of long units whether they should be put away now.
        """
        self.spec = spec
        self.stop = stop
        self.work = Path(spec.work)
        self.acquisition_folder = Path(spec.acquisition)
        self.documents = Path(spec.documents) if spec.documents is not None else None
        self.parameters: Parameters = spec.parameters

    # -- ingest ---------------------------------------------------------------------------------------------
    @cached_property
    def ingest_cell(self) -> Cell:
        """The cell of ingest, keyed by folder name and parameters; its manifest carries the content."""
        key = fingerprint(self.acquisition_folder.name, self.parameters.ingest.to_json(), CODE_VERSION)
        return self._cell("ingest", key)

    @property
    def manifest_path(self) -> Path:
        """Where the ingest manifest is."""
        return self.ingest_cell.file("manifest.json")

    @cached_property
    def manifest(self) -> IngestManifest:
        """The ingest manifest.

        Raises:
            UpstreamError: ingest has not run with these parameters.
        """
        try:
            text = self.manifest_path.read_bytes()
        except FileNotFoundError:
            raise UpstreamError(
                f"{self.manifest_path}: no ingest manifest", remedy="start the run at ingest"
            ) from None
        return IngestManifest.parse(text, source=str(self.manifest_path))

    @property
    def sections(self) -> tuple[IngestedSection, ...]:
        """Usable sections, ascending in z."""
        return self.manifest.sections

    # -- keys -----------------------------------------------------------------------------------------------
    def stitch_key(self, section: IngestedSection) -> str:
        """Key of a stitched section: its tiles, how exact their places are, the stitch parameters, and the
        lens by its content."""
        whole = self.manifest.acquisition
        frame = (whole.voxel_size_zyx_nm, whole.stage_uncertainty_px, whole.aligned)
        stitch = self.parameters.stitch.model_dump(mode="json", exclude={"lens"})
        return fingerprint("stitch", section.fingerprint, frame, stitch, *self._lens_content, CODE_VERSION)

    @cached_property
    def _lens_content(self) -> tuple[str, ...]:
        path = self.lens_path
        return () if path is None else (sha256_file(path),)

    @cached_property
    def _stitch_keys(self) -> dict[str, str]:
        return {s.section.id: self.stitch_key(s) for s in self.sections}

    @cached_property
    def pairs(self) -> dict[str, tuple[IngestedSection, IngestedSection]]:
        """Pairs of usable sections to register, by unit id `z00003-z00004`; gaps are bridged."""
        if self.manifest.acquisition.aligned:
            return {}
        rows, align = self.sections, self.parameters.align
        far = {step for step in align.far_neighbours if step > align.neighbours}
        steps = [*range(1, align.neighbours + 1), *sorted(far)]
        return {
            f"{a.section.id}-{rows[i + step].section.id}": (a, rows[i + step])
            for i, a in enumerate(rows)
            for step in steps
            if i + step < len(rows)
        }

    @cached_property
    def far_pairs(self) -> frozenset[str]:
        """The pairs of `align.far_neighbours`: registered at half resolution, and expendable."""
        row = {s.section.id: i for i, s in enumerate(self.sections)}
        near = self.parameters.align.neighbours
        return frozenset(
            unit for unit, (a, b) in self.pairs.items() if row[b.section.id] - row[a.section.id] > near
        )

    def pair_key(self, unit: str) -> str:
        """Key of a registered pair: both stitched sections and how they are registered."""
        a, b = (self._stitch_keys[s.section.id] for s in self.pairs[unit])
        align = self.parameters.align.model_dump(mode="json", exclude=NOT_IN_PAIRS)
        return fingerprint("pair", a, b, unit in self.far_pairs, align, CODE_VERSION)

    @cached_property
    def solve_key(self) -> str:
        """Key of the solved stack: all stitched sections, all pairs, and what is locked, by its content."""
        pairs = [self.pair_key(unit) for unit in self.pairs]
        align = self.parameters.align.model_dump(mode="json", exclude={"locked_solution"})
        folder = self.locked_folder
        held = None
        if folder is not None:
            files = [folder / "solution.json", *sorted((folder / "transforms").iterdir())]
            held = [(file.name, sha256_file(file)) for file in files]
        return fingerprint("solve", self._stitch_keys, pairs, align, held, CODE_VERSION)

    @property
    def locked_folder(self) -> Path | None:
        """The folder of the solution whose sections stay where they are.

        Raises:
            UpstreamError: it is no solution, or does not lie under the work root.
        """
        name = self.parameters.align.locked_solution
        if name is None:
            return None
        folder = (self.work / name).resolve()
        fault = None
        if not folder.is_relative_to(self.work.resolve()):
            fault = f"not under the work root {self.work}"
        elif not (folder / "solution.json").is_file() or not (folder / "transforms").is_dir():
            fault = "no solution.json and transforms/ there"
        if fault is not None:
            raise UpstreamError(
                f"align.locked_solution: {name}: {fault}",
                remedy="name the folder of an earlier solution in the same work root: align_solve/<key>",
            )
        return folder

    @cached_property
    def gate_key(self) -> str:
        """Key of the verdict on the solved stack: what is stitched, solved or labelled knows no limits."""
        return fingerprint("gate", self.solve_key, self.parameters.gate.to_json(), CODE_VERSION)

    @cached_property
    def segment_key(self) -> str:
        """Key of the local labels: the aligned volume, the network (not its path) and the parameters."""
        return fingerprint(
            "segment",
            self.solve_key,
            sha256_file(self.model_path),
            self.parameters.segment.model_dump(mode="json", exclude=NOT_IN_LABELS),
            CODE_VERSION,
        )

    @cached_property
    def reconcile_key(self) -> str:
        """Key of equalities, global table and global labels."""
        return fingerprint("reconcile", self.segment_key, self.parameters.reconcile.to_json(), CODE_VERSION)

    @property
    def agglomerates(self) -> bool:
        """Whether pairs of objects are looked at again after reconcile."""
        return bool(self.parameters.candidates.sources)

    @cached_property
    def candidates_key(self) -> str:
        """Key of the pairs that might be one object: the global labels, and which pairs are taken."""
        return fingerprint(
            "candidates", self.reconcile_key, self.parameters.candidates.to_json(), CODE_VERSION
        )

    @cached_property
    def resegment_key(self) -> str:
        """Key of the evidence: the pairs, and how they are flooded; image and network are in theirs."""
        return fingerprint(
            "resegment", self.candidates_key, self.parameters.resegment.to_json(), CODE_VERSION
        )

    @cached_property
    def agglomerate_key(self) -> str:
        """Key of the decisions: the evidence, and the thresholds by their content."""
        p, path = self.parameters.agglomerate, self.thresholds_path
        return fingerprint(
            "agglomerate",
            self.resegment_key,
            p.model_dump(mode="json", exclude={"thresholds"}),
            None if path is None else sha256_file(path),
            CODE_VERSION,
        )

    @cached_property
    def finish_key(self) -> str:
        """Key of the bundle to publish: the labels, and what its documents say about the acquisition."""
        whole = self.manifest.acquisition
        told = (whole.id, whole.instrument, whole.layout, whole.missing_sections, len(whole.sections))
        findings = [finding.to_json() for finding in self.manifest.findings]
        return fingerprint(
            "finish",
            self.agglomerate_key if self.agglomerates else self.reconcile_key,
            self.gate_key,
            told,
            findings,
            self.parameters.finish.to_json(),
            CODE_VERSION,
        )

    # -- cells ----------------------------------------------------------------------------------------------
    def cell(self, step: StepName, unit: str = "") -> Cell:
        """The cell of a unit; steps with one shared cell ignore `unit`."""
        if step == "ingest":
            return self.ingest_cell
        if step == "stitch":
            key = self._stitch_keys[unit]
        elif step == "align_pairs":
            key = self.pair_key(unit)
        elif step in ("align_solve", "align_render"):
            key = self.solve_key
        elif step == "segment":
            key = self.segment_key
        elif step in ("match", "reconcile", "relabel"):
            key = self.reconcile_key
        elif step == "candidates":
            key = self.candidates_key
        elif step == "resegment":
            key = self.resegment_key
        elif step == "agglomerate":
            key = self.agglomerate_key
        else:
            key = self.finish_key
        return self._cell(step, key)

    def _cell(self, step: str, key: str) -> Cell:
        return Cell(self.work / step / key, self.spec.memory_gib)

    def board(self, step: StepName) -> Cell:
        """The cell whose ledger all units of a fan-out step are claimed in: that of the step, or, where each
        unit has a cell of its own, one for all of them."""
        if step not in OWN_CELLS:
            return self.cell(step)
        keys = self._stitch_keys if step == "stitch" else {u: self.pair_key(u) for u in self.pairs}
        return Cell(self.work / step / f"all-{fingerprint(keys)}")

    @property
    def gate_cell(self) -> Cell:
        """The cell of the verdict on the solved stack."""
        return self._cell("gate", self.gate_key)

    def seam_evidence_cell(self, section_id: str) -> Cell:
        """What the images of a stitched section's tiles say about its seams."""
        return self._cell("evidence", fingerprint("seams", self._stitch_keys[section_id]))

    @property
    def pair_evidence_cell(self) -> Cell:
        """What the images of sections that follow each other say about the solved stack; a unit a pair."""
        return self._cell("evidence", fingerprint("pairs", self.solve_key))

    @property
    def model_path(self) -> Path:
        """The network's weights; raises ModelError where there is no such file."""
        return named.model(self.parameters)

    @property
    def lens_path(self) -> Path | None:
        """The lens of the camera, where one is given; raises TaskError where there is no such file."""
        return named.lens(self.parameters)

    @property
    def thresholds_path(self) -> Path | None:
        """The thresholds of agglomeration, where that is on and a file of them is given; raises TaskError
        without it."""
        return named.thresholds(self.parameters) if self.agglomerates else None

    @cached_property
    def aligned(self) -> AlignedVolume:
        """The aligned volume's frame, known once align_solve is done."""
        path = self.cell("align_solve").file("solution.json")
        try:
            return AlignedVolume.parse(path.read_bytes(), source=str(path))
        except FileNotFoundError:
            raise UpstreamError(
                f"{path}: the stack is not solved", remedy="start the run at align_solve"
            ) from None
