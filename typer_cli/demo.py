"""The demo: make an acquisition (functions), run it (flows), score it (functions), tell it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer_cli.documents import step_document, steps_table
from typer_cli.facade import with_engine
from typer_cli.output import duration, table

if TYPE_CHECKING:
    from rich.console import Console

    from flows.records import RunEvent, RunRecord, StepRecord
    from functions.testing.demo import Score


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What the demo has to say; `score` is None when the run failed."""

    run: RunRecord
    steps: tuple[StepRecord, ...]
    score: Score | None
    seconds: float
    """Of the flow, from its start to the published volume."""
    preparation_seconds: float
    """Making the phantom's tiles."""
    scoring_seconds: float
    peak_memory_gib: float

    @property
    def error(self) -> str | None:
        """Why there is no score."""
        return None if self.score else self.run.error or f"the run is {self.run.status}"

    @property
    def voxels_per_second(self) -> float | None:
        """Voxels of the aligned volume over the whole flow's time."""
        return round(self.score.voxels / self.seconds, 1) if self.score else None

    def to_json(self) -> dict[str, Any]:
        """The figures under their public keys; None where the run failed."""
        score, published = self.score, self.run.published_path
        found = score.evaluation if score else None
        return {
            "run_id": self.run.id,
            "status": str(self.run.status),
            "error": self.error,
            "stitch_residual_px_p95": round(score.stitch_residual_px_p95, 4) if score else None,
            "align_residual_px_p95": round(score.align_residual_px_p95, 4) if score else None,
            "voi_split": round(found.voi_split_fill, 4) if found else None,
            "voi_merge": round(found.voi_merge_fill, 4) if found else None,
            "labelled_fraction": round(found.labelled_fraction, 4) if found else None,
            "erl_um": round(found.erl_um, 4) if found and found.erl_um is not None else None,
            "seconds": round(self.seconds, 2),
            "preparation_seconds": round(self.preparation_seconds, 2),
            "scoring_seconds": round(self.scoring_seconds, 2),
            "voxels": score.voxels if score else None,
            "voxels_per_second": self.voxels_per_second,
            "peak_memory_gib": round(self.peak_memory_gib, 3),
            "published": published,
            "report": str(Path(published) / "report.html") if published else None,
            "evaluation": found.to_json() if found else None,
            "steps": [step_document(step) for step in self.steps],
        }


def run_demo(
    folder: Path,
    *,
    size: str,
    workers: int | None,
    memory_gib: float | None = None,
    engine: str | None = None,
    engine_config: Path | None = None,
    say: Callable[[str], None],
    on_event: Callable[[RunEvent], None],
) -> DemoReport:
    """Make, run, score. Everything lies under `folder`, the embedded site's home too.

    Raises:
        PetavoxelError, FlowsError: what cannot be put right by going on.
    """
    from flows.inputs import RunRequest
    from flows.records import RunStatus
    from flows.run import Runs
    from flows.site import load_site
    from functions.tasks import RunSpec
    from functions.testing.demo import RECIPES, Size, make_acquisition, score
    from functions.testing.memory import PeakMemory

    folder = folder.expanduser().resolve()
    home = folder / "home"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    clock = [time.perf_counter()]
    with PeakMemory() as memory:
        say(f"making the phantom acquisition in {folder}")
        made = make_acquisition(folder, Size(size))
        clock.append(time.perf_counter())
        site = load_site("local", home=home, workers=workers)
        runs = Runs(with_engine(site, engine=engine, engine_config=engine_config), home=home)
        request = RunRequest(
            source=str(made.acquisition),
            label=f"demo {size}",
            parameters=RECIPES[Size(size)].parameters,
            memory_gib=memory_gib,
        )
        record = runs.start(request, wait=True, on_event=on_event)
        clock.append(time.perf_counter())
        record, steps = runs.show(record.id)
        found = None
        if record.status is RunStatus.SUCCEEDED and record.published_path:
            say("comparing with the truth")
            spec = RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}")
            found = score(spec, truth_folder=made.truth, published=Path(record.published_path))
        clock.append(time.perf_counter())
    return DemoReport(
        run=record,
        steps=tuple(steps),
        score=found,
        seconds=clock[2] - clock[1],
        preparation_seconds=clock[1] - clock[0],
        scoring_seconds=clock[3] - clock[2],
        peak_memory_gib=memory.gib,
    )


def draw_demo(screen: Console, report: DemoReport) -> None:
    """The closing table, and what to do next."""
    screen.print(steps_table(report.steps))
    found = report.to_json()
    if report.score is None:
        screen.print(f"the demo's run did not succeed: {report.error}", markup=False, soft_wrap=True)
        return
    rows = [
        ("stitch residual, p95", f"{found['stitch_residual_px_p95']:.3f} px", "against the phantom's truth"),
        ("align residual, p95", f"{found['align_residual_px_p95']:.3f} px", "neighbouring sections"),
        ("VOI split", f"{found['voi_split']:.3f} bit", "unlabelled voxels filled"),
        ("VOI merge", f"{found['voi_merge']:.3f} bit", "unlabelled voxels filled"),
        ("labelled", f"{100 * found['labelled_fraction']:.1f} %", "of the voxels inside neurites"),
        ("expected run length", _optional(found["erl_um"], "um"), "on skeletons of the truth"),
        ("time of the flow", duration(report.seconds), "finished units of an earlier demo are reused"),
        ("speed", f"{report.voxels_per_second:,.0f} voxels/s", f"{report.score.voxels:,} voxels, all steps"),
        ("peak memory", f"{report.peak_memory_gib:.2f} GiB", "all processes"),
    ]
    screen.print(table("figure", "value", "", rows=rows, numbers=["value"]))
    lines = (
        f"published   {found['published']}",
        f"report      {found['report']}",
        f"viewer      petavoxel volume view {found['published']}",
    )
    for line in lines:
        screen.print(line, markup=False, soft_wrap=True)


def _optional(value: float | None, unit: str) -> str:
    return "-" if value is None else f"{value:.2f} {unit}"
