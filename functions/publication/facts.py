"""What a finished run is made of, read from its cells: layouts, transforms, marks. No pixels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from functions.model.errors import UpstreamError
from functions.model.gate import GateDocument, SectionVerdict
from functions.model.transform import SectionLayout, SectionTransform
from functions.model.volume import VolumeRef
from functions.store.cells import Mark
from functions.store.labels import prepared_labels
from functions.store.moved import marks_of, traffic_of
from functions.store.run import Run
from functions.store.transforms import load_layout, load_transform
from functions.tasks import STEPS, Problem, StepName

RESIDUAL = "residual_px_p95"
ALIGN_RESIDUAL = "align_residual_px_p95"
LATER: tuple[StepName, ...] = ("finish", "publish")
"""Their marks come after what is told here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """When a step worked and for how long; `seconds` adds up its units, `wall_s` spans first to last."""

    step: StepName
    units: int
    seconds: float
    started: float
    ended: float
    slowest: str
    slowest_s: float
    traffic: dict[str, float]
    """Bytes read and written, and the largest peak of memory (`functions.store.moved`)."""

    @property
    def wall_s(self) -> float:
        """From the first unit's start to the last unit's end."""
        return self.ended - self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitNote:
    """A unit that a person should look at."""

    step: StepName
    unit: str
    code: str
    subject: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCount:
    """Voxels and segments of the global labels."""

    voxels: int
    labelled: int
    segments: int
    largest: tuple[tuple[int, int], ...]
    """The largest segments: id and voxels, largest first."""

    @property
    def fraction(self) -> float:
        """Labelled share of all voxels."""
        return self.labelled / self.voxels if self.voxels else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything the documents of a bundle say about a run."""

    run: Run
    image: VolumeRef
    labels: VolumeRef
    count: LabelCount
    layouts: tuple[SectionLayout, ...]
    """One a usable section, ascending in z."""
    transforms: dict[str, SectionTransform]
    """By section id."""
    marks: dict[StepName, tuple[Mark, ...]]
    times: tuple[StepTime, ...]
    notes: tuple[UnitNote, ...]
    gate: GateDocument
    """The verdict on the registered stack."""

    @property
    def title(self) -> str:
        """Title of the published volume."""
        return self.run.parameters.finish.title or self.run.manifest.acquisition.id

    @property
    def finished(self) -> datetime:
        """When the last unit before finish ended: the date of the publication, the same on every rerun."""
        return datetime.fromtimestamp(max((t.ended for t in self.times), default=0.0), tz=UTC)

    @property
    def status(self) -> str:
        """`look` where a unit, a finding or the gate asks for a person, else `ok`."""
        findings = any(f.severity != "note" for f in self.run.manifest.findings)
        return "look" if findings or self.notes or self.gate.verdict != "pass" else "ok"

    @property
    def verdicts(self) -> dict[str, SectionVerdict]:
        """The gate's verdicts by section; none where the stack came aligned."""
        return {verdict.section: verdict for verdict in self.gate.sections}

    @property
    def stitch_residual_px(self) -> float | None:
        """Largest of the sections' 95th percentiles of seam residuals."""
        return max((x.residual_px_p95 for x in self.layouts if x.residual_px_p95 is not None), default=None)

    @property
    def align_residual_px(self) -> float | None:
        """95th percentile of all residuals of the solved stack; None where nothing had to be aligned."""
        figures = (figure for mark in self.marks["align_solve"] for figure in mark.figures.items())
        return next((value for name, value in figures if name == ALIGN_RESIDUAL), None)

    @property
    def pair_residuals_px(self) -> dict[str, float]:
        """95th percentile of each registered pair's residuals, by unit."""
        figures = ((mark.unit, mark.figures.items()) for mark in self.marks["align_pairs"])
        return {unit: value for unit, items in figures for name, value in items if name.endswith(RESIDUAL)}


def gather(run: Run, *, count: LabelCount, gate: GateDocument) -> Facts:
    """Read the facts of a run whose labels are finished.

    Raises:
        UpstreamError: there are no labels.
        VolumeError: a section is not stitched, or the stack not solved.
    """
    marks = {step: tuple(marks_of(run, step)) if step not in LATER else () for step in STEPS}
    return Facts(
        run=run,
        image=run.aligned.volume,
        labels=prepared_labels(run),
        count=count,
        layouts=tuple(load_layout(run, s.section.id) for s in run.sections),
        transforms={s.section.id: load_transform(run, s.section.id) for s in run.sections},
        marks=marks,
        times=tuple(_time(step, m) for step, m in marks.items() if m),
        notes=(*_left_out(run), *(note for step, m in marks.items() for note in _notes(step, m))),
        gate=gate,
    )


def require_labels(run: Run) -> VolumeRef:
    """The global labels, once every box of them is written.

    Raises:
        UpstreamError: relabel has not run, or not to its end.
    """
    ref, cell = prepared_labels(run), run.cell("relabel")
    written = sum(int(mark.figures["voxels"]) for mark in cell.marks())
    if written != ref.box.voxels:
        raise UpstreamError(
            f"{cell.path}: {written} of {ref.box.voxels} voxels are labelled",
            remedy="start the run at relabel",
        )
    return ref


def _time(step: StepName, marks: tuple[Mark, ...]) -> StepTime:
    slowest = max(marks, key=lambda mark: mark.seconds)
    return StepTime(
        step=step,
        units=len(marks),
        seconds=sum(mark.seconds for mark in marks),
        started=min(mark.started for mark in marks),
        ended=max(mark.started + mark.seconds for mark in marks),
        slowest=slowest.unit,
        slowest_s=slowest.seconds,
        traffic=traffic_of(marks),
    )


def _left_out(run: Run) -> Iterator[UnitNote]:
    """Subvolumes in quarantine: they have no marks, and no labels. Their errors name paths, so they stay at
    the site."""
    for found in run.cell("segment").ledger.quarantined():
        yield UnitNote(
            step="segment",
            unit=found.unit,
            code="quarantined",
            subject=f"left without labels of its own after {found.attempts} attempts",
            remedy=found.remedy,
        )


def _notes(step: StepName, marks: tuple[Mark, ...]) -> Iterator[UnitNote]:
    """Problems of units; a unit that is not ok and names none is noted by its status."""
    for mark in marks:
        for problem in (Problem.parse(p, source=f"mark {mark.unit}") for p in mark.problems):
            yield UnitNote(
                step=step,
                unit=mark.unit,
                code=problem.code,
                subject=problem.subject,
                remedy=problem.remedy,
            )
        if mark.status != "ok" and not mark.problems:
            yield UnitNote(step=step, unit=mark.unit, code=mark.status, subject=mark.unit, remedy="")
