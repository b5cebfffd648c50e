"""`petavoxel plan` of a volume: what is asked for, and its figures as tables or as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import typer

from typer_cli.numbers import sizes_nm, voxels_zyx
from typer_cli.output import cell_text, table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.calibration import Calibration
    from functions.pair_cost import Pairing
    from functions.planning import Allocation, Extent, Plan, Tiling
    from functions.store.run import Run

GPUS_PER_NODE = 4
DEFAULT_RATE = "1GVx/h"


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run whose volume is planned, on what its site has, and what was measured on it."""

    run: Run
    gpus: int
    calibration: Calibration | None


def measure(run_id: str, site: str, *, subvolumes: int | None) -> Measured:
    """The run of that id; with `subvolumes` so many of it are segmented first.

    Raises:
        RunError: no such run, or it is at work.
        PetavoxelError: it has no aligned volume, or fewer subvolumes.
    """
    from typer_cli.facade import runs_of, work_of

    runs = runs_of(site)
    if subvolumes is None:
        return Measured(run=work_of(run_id, site), gpus=runs.site.workers, calibration=None)
    from functions.calibration import calibrate

    run = work_of(runs.idle(run_id).id, site)
    return Measured(run=run, gpus=runs.site.workers, calibration=calibrate(run, subvolumes))


def of_run(run: Run) -> tuple[Extent, Tiling]:
    """A run's own volume and tiling."""
    from functions.planning import Extent, Tiling
    from functions.store.labels import grid_of

    grid = grid_of(run)
    return (
        Extent.of_shape(grid.shape_zyx),
        Tiling(size_zyx=grid.size_zyx, overlap_zyx=grid.overlap_zyx),
    )


def request_of(
    extent: Extent | None,
    tiling: Tiling | None,
    measured: Measured | None,
    *,
    overlap_factor: float | None,
    rate: str | None,
    gpus: tuple[int, ...],
    gpus_per_node: int,
    agglomerate: bool | None = None,
    occupied: float | None = None,
) -> Plan:
    """The plan asked for. That of a run's own volume is kept beside the run, whatever is shown.

    `agglomerate`: whether pairs of objects are flooded again; None: as the run's parameters say. `occupied`:
    share of subvolumes that hold tissue, where no run's mask tells.

    Raises:
        TaskError: the rate does not parse.
    """
    from functions.model.quantities import parse_rate
    from functions.planning import Plan

    voxels_per_hour = parse_rate(rate or DEFAULT_RATE)
    pairing = pairing_of(measured, agglomerate)
    skipped = None
    if measured is not None:
        from functions.comparison import skipped as skipped_of

        found = skipped_of(measured.run)
        own_extent, own_tiling = of_run(measured.run)
        own = Plan(
            extent=own_extent,
            rate=voxels_per_hour,
            gpus=(measured.gpus,),
            gpus_per_node=gpus_per_node,
            tiling=own_tiling,
            skipped=found,
            pairing=pairing,
        )
        skipped = found if extent is None and (tiling or overlap_factor) is None else None
        if skipped is not None and occupied is not None:
            raise typer.BadParameter("the run's own mask tells", param_hint="--occupied")
        store(_calibrated(own, measured.calibration), measured)
        extent = extent or own_extent
        tiling = tiling if tiling or overlap_factor else own_tiling
    assert extent is not None
    plan = Plan(
        extent=extent,
        rate=voxels_per_hour,
        gpus=gpus,
        gpus_per_node=gpus_per_node,
        tiling=tiling,
        overlap_factor=overlap_factor or 1.0,
        skipped=skipped,
        occupied=occupied or 1.0,
        pairing=pairing,
    )
    return _calibrated(plan, measured.calibration if measured else None)


def pairing_of(measured: Measured | None, agglomerate: bool | None) -> Pairing | None:
    """What agglomeration costs, by a run's marks as far as there are any; None where it is off."""
    from functions.pair_cost import Pairing
    from functions.pair_cost import measured as measured_on

    on = agglomerate if agglomerate is not None else measured is not None and measured.run.agglomerates
    if not on:
        return None
    return Pairing() if measured is None else measured_on(measured.run)


def _calibrated(plan: Plan, calibration: Calibration | None) -> Plan:
    """The plan at the measured rate, with its interval."""
    if calibration is None:
        return plan
    low, high = calibration.rate_interval
    return replace(
        plan,
        rate=calibration.rate,
        rate_low=low,
        rate_high=high,
        local_label_bytes=calibration.label_bytes_per_voxel,
    )


def store(plan: Plan, measured: Measured) -> None:
    """Keep the plan beside the run, for `run show` to set it against what the run takes."""
    from datetime import UTC, datetime

    from functions.store.plans import StoredPlan, write_plan

    calibration = measured.calibration
    write_plan(
        measured.run,
        StoredPlan(
            made=datetime.now(UTC).isoformat(timespec="seconds"),
            rate=plan.rate,
            gpus=measured.gpus,
            samples=len(calibration.samples) if calibration else 0,
            figures=plan.figures(),
        ),
    )


def gpus_of_node(site: str | None, given: int | None) -> int:
    """GPUs of a node: as given, else the site profile's, else 4.

    Raises:
        SiteError: no such profile.
    """
    if given is not None or site is None:
        return given or GPUS_PER_NODE
    from flows.site import home_folder, load_site

    return load_site(site, home=home_folder()).gpus_per_node or GPUS_PER_NODE


def allocation_of(plan: Plan, granted: float) -> Allocation:
    """The node-hours granted against those planned."""
    from functions.planning import Allocation

    needed = next(figure for figure in plan.figures() if figure.name == "node_hours")
    return Allocation(granted=granted, needed=needed.value, needed_high=needed.high)


def document(plan: Plan) -> dict[str, Any]:
    """All figures by name, then with their formulas, then what other tilings would cost."""
    from functions.planning import KNOWN_TILINGS

    figures = plan.figures()
    hours = plan.extent.voxels / plan.rate
    return {
        **{figure.name: figure.value for figure in figures},
        "figures": [asdict(figure) for figure in figures],
        "choices": [
            {"tiling": t.label, "overlap_factor": round(t.factor, 4), "gpu_hours": hours * t.factor}
            for t in KNOWN_TILINGS
        ],
    }


def allocation_document(allocation: Allocation) -> dict[str, Any]:
    """Whether it is enough, and by how much."""
    return {
        "granted_node_hours": allocation.granted,
        "needed_node_hours": allocation.needed,
        "spare_node_hours": allocation.spare,
        "enough": allocation.enough,
        "surely_enough": allocation.surely,
    }


def calibration_document(calibration: Calibration) -> dict[str, Any]:
    """What was measured."""
    from functions.calibration import CONFIDENCE

    low, high = calibration.rate_interval
    return {
        "voxels_per_gpu_hour": calibration.rate,
        "low": low,
        "high": high,
        "confidence": CONFIDENCE,
        "few_samples": calibration.few,
        "sigma_of_log": calibration.sigma,
        "overhead_seconds_per_subvolume": calibration.overhead_s,
        "start_seconds": calibration.start_s,
        "label_bytes_per_voxel": calibration.label_bytes_per_voxel,
        "samples": [asdict(sample) for sample in calibration.samples],
    }


def draw(screen: Console, plan: Plan) -> None:
    """The figures of a volume, and what other tilings would cost."""
    from functions.model.quantities import interval, scaled
    from functions.planning import KNOWN_TILINGS

    columns = ["quantity", "value", "formula"]
    rows = [[f.name.replace("_", " "), scaled(f.value, f.unit), f.formula] for f in plan.figures()]
    if plan.rate_low is not None:
        columns.insert(2, "interval")
        for row, figure in zip(rows, plan.figures(), strict=True):
            row.insert(2, interval(figure.low, figure.high, figure.unit))
    screen.print(table(*columns, rows=rows, numbers=["value", "interval"]))
    hours = plan.extent.voxels / plan.rate
    known = [(t.label, f"{t.factor:.3f} x", scaled(hours * t.factor, "GPU-h")) for t in KNOWN_TILINGS]
    screen.print(
        table("subvolume zyx", "factor", "GPU-hours", title="Overlap is the lever", rows=known,
              numbers=["factor", "GPU-hours"])
    )  # fmt: skip


def draw_allocation(screen: Console, allocation: Allocation) -> None:
    """One line: enough or not."""
    from functions.model.quantities import scaled

    spare = scaled(abs(allocation.spare), "node-h")
    verdict = f"enough, {spare} to spare" if allocation.enough else f"not enough, {spare} are missing"
    if allocation.enough and not allocation.surely:
        verdict += "; not at the upper end of the interval"
    granted = scaled(allocation.granted, "node-h")
    screen.print(f"allocation of {granted}: {verdict}", markup=False, soft_wrap=True)


def draw_calibration(screen: Console, calibration: Calibration) -> None:
    """Each sample, and how far they can be trusted."""
    from functions.calibration import CONFIDENCE
    from functions.model.quantities import interval, scaled

    rows = [
        (s.unit, f"{s.seconds:.3g}", f"{s.overhead_s:.3g}", scaled(3600 * s.voxels / s.seconds, "voxels"),
         "now" if s.fresh else "before")
        for s in calibration.samples
    ]  # fmt: skip
    columns = ("subvolume", "seconds", "overhead s", "an hour", "measured")
    screen.print(table(*columns, title="Calibration, one worker", rows=rows, numbers=columns[1:4]))
    few = "; few samples: the interval rests on their being log-normal" if calibration.few else ""
    screen.print(
        f"{scaled(calibration.rate, 'voxels')} an hour;"
        f" mean at {CONFIDENCE:.0%}: {interval(*calibration.rate_interval, 'voxels')}"
        f" from {cell_text(len(calibration.samples))} subvolumes{few}",
        markup=False,
        soft_wrap=True,
    )


def extent_of(shape_zyx: str | None, volume: str | None, voxel_nm: str, *, needed: bool) -> Extent | None:
    """The volume that the words describe; None without any where none is needed."""
    from functions.model.quantities import parse_volume
    from functions.planning import Extent

    if shape_zyx is None and volume is None and not needed:
        return None
    if (shape_zyx is None) == (volume is None):
        raise typer.BadParameter("give either --shape-zyx or --volume", param_hint="--shape-zyx")
    try:
        if shape_zyx is not None:
            return Extent.of_shape(voxels_zyx(shape_zyx, "--shape-zyx"))
        return Extent.of_volume(parse_volume(volume or ""), sizes_nm(voxel_nm, "--voxel-nm"))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--volume" if volume else "--shape-zyx") from None


def tiling_of(subvolume: str | None, overlap: str | None, overlap_factor: float | None) -> Tiling | None:
    """The tiling that the words describe; None without any."""
    from functions.planning import Tiling

    if (subvolume is None) != (overlap is None):
        raise typer.BadParameter("--subvolume and --overlap belong together", param_hint="--overlap")
    if subvolume is None or overlap is None:
        return None
    if overlap_factor is not None:
        raise typer.BadParameter(
            "give either a factor or a subvolume and its overlap", param_hint="--overlap-factor"
        )
    size, shared = voxels_zyx(subvolume, "--subvolume"), voxels_zyx(overlap, "--overlap")
    try:
        return Tiling(size_zyx=size, overlap_zyx=shared)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--overlap") from None
