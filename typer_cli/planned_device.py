"""`petavoxel plan --device-gib`: the largest subvolume that an accelerator's memory holds."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from typer_cli.output import table

if TYPE_CHECKING:
    from rich.console import Console

    from functions.device_memory import OnDevice
    from functions.planning import Plan
    from typer_cli.planning import Measured

BATCH = 32
"""Fields of view a call, unless `segment.batch` says otherwise (`functions.segmenters`)."""


def gib_of_device(site: str | None, given: float | None) -> float | None:
    """Memory of a GPU: as given, else the site profile's, else unknown.

    Raises:
        SiteError: no such profile.
    """
    if given is not None or site is None:
        return given
    from flows.site import home_folder, load_site

    return load_site(site, home=home_folder()).device_gib


def on_device(device_gib: float, measured: Measured | None, network: str) -> OnDevice:
    """A subvolume by itself on a device: by a run's parameters and network, else the defaults' and `network`.

    Raises:
        ModelError: the run's network cannot be read.
    """
    from functions.device_memory import OnDevice
    from functions.model.parameters import SegmentParameters
    from typer_cli.training_plan import network_of

    parameters = measured.run.parameters.segment if measured else SegmentParameters()
    if measured is None:
        config = network_of(network)
        features, fov = config.features, config.fov_zyx
    else:
        from functions.networks import shape_of

        features, fov = shape_of(measured.run.model_path)
    return OnDevice(
        device_gib=device_gib,
        fov_zyx=fov,
        features=features,
        batch=parameters.batch or BATCH,
        objects=parameters.objects,
        precision=parameters.precision,
    )


def fits(device: OnDevice, plan: Plan) -> bool:
    """Whether the planned subvolumes do."""
    return device.holds(plan.subvolume_voxels)


def document(device: OnDevice, plan: Plan) -> dict[str, Any]:
    """What fits, with its formulas, and whether the planned subvolumes do."""
    return {
        "device_gib": device.device_gib,
        "largest_subvolume_zyx": [device.largest_side] * 3,
        "planned_voxels": plan.subvolume_voxels,
        "fits": fits(device, plan),
        "figures": [asdict(figure) for figure in device.figures()],
    }


def draw(screen: Console, device: OnDevice, plan: Plan) -> None:
    """The figures, and one line on the planned subvolumes."""
    from functions.model.quantities import scaled

    rows = [(f.name.replace("_", " "), scaled(f.value, f.unit), f.formula) for f in device.figures()]
    title = f"Device of {device.device_gib:g} GiB, one subvolume at a time (segment.at_once=1)"
    screen.print(table("quantity", "value", "formula", title=title, rows=rows, numbers=["value"]))
    verdict = "fits" if fits(device, plan) else "does not fit"
    screen.print(
        f"a subvolume of {scaled(plan.subvolume_voxels, 'voxels')} {verdict}; with several at once"
        " canvases lie on the host: see --memory-gib",
        markup=False,
        soft_wrap=True,
    )
