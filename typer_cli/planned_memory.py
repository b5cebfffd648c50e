"""`petavoxel plan --memory-gib`: what each step takes of a worker, and whether it fits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from typer_cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.needs import Need
    from functions.planning import Plan
    from typer_cli.planning import Measured

LARGE = 1 << 20
"""Side of a volume of which only the voxels are known: no unit is cut short by it."""
OF_BLOCKS = ("segment", "match", "relabel", "candidates", "resegment", "agglomerate", "finish")
"""Steps whose units do not depend on the volume's shape."""
SOURCES = ("refused", "contact")
FOV_ZYX = (33, 33, 33)
"""Where no run names a network: FIB-25's."""


def needs_of(plan: Plan, measured: Measured | None) -> list[Need]:
    """What the units of a planned volume need; of a run's own volume with its tiles and parameters.

    Nothing is said of sections where only the number of voxels is known.
    """
    from dataclasses import replace

    from functions.model.parameters import Parameters
    from functions.needs import Geometry, geometry_of, needs

    parameters = measured.run.parameters if measured else Parameters()
    sources = (parameters.candidates.sources or SOURCES) if plan.pairing else ()
    candidates = parameters.candidates.model_copy(update={"sources": sources})
    parameters = parameters.model_copy(update={"candidates": candidates})
    if plan.tiling is not None:
        cut = {"subvolume_zyx_px": plan.tiling.size_zyx, "overlap_zyx_px": plan.tiling.overlap_zyx}
        segment = parameters.segment.model_copy(update=cut)
        parameters = parameters.model_copy(update={"segment": segment})
    shape = plan.extent.shape_zyx
    geometry = Geometry(shape_zyx=shape or (LARGE, LARGE, LARGE), parameters=parameters)
    if measured is not None:
        own = geometry_of(measured.run)
        geometry = replace(own, parameters=parameters, shape_zyx=shape or own.shape_zyx)
        shape = geometry.shape_zyx
    if plan.pairing:
        objects = plan.extent.voxels * plan.pairing.objects_per_voxel
        geometry = replace(geometry, objects=objects, fov_zyx=geometry.fov_zyx or FOV_ZYX)
    found = needs(geometry)
    return found if shape else [n for n in found if n.step in OF_BLOCKS]


def document(needed: list[Need], memory_gib: float) -> dict[str, Any]:
    """Per step what a worker needs, and whether what it is given suffices."""
    return {
        "memory_gib": memory_gib,
        "enough": fits(needed, memory_gib),
        "steps": [
            {
                "step": need.step,
                "needed_gib": round(need.worker_gib, 3),
                "unit": need.of,
                "fits": need.worker_gib <= memory_gib,
                "remedy": need.remedy,
            }
            for need in needed
        ],
    }


def fits(needed: list[Need], memory_gib: float) -> bool:
    """Whether every step does."""
    return all(need.worker_gib <= memory_gib for need in needed)


def draw(screen: Console, needed: list[Need], memory_gib: float) -> None:
    """A row a step; the remedy where it does not fit."""
    rows = [
        (
            need.step,
            f"{need.worker_gib:.2f}",
            need.of,
            "fits" if need.worker_gib <= memory_gib else f"does not fit: {need.remedy}",
        )
        for need in needed
    ]
    title = f"Memory of a worker: {memory_gib:g} GiB"
    screen.print(table("step", "GiB at least", "unit", "", title=title, rows=rows, numbers=["GiB at least"]))
