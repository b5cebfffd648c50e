"""Options that several commands share, and what they leave for the error boundary."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Format(StrEnum):
    """How a command shows its answer."""

    TEXT = "text"
    JSON = "json"


class EngineName(StrEnum):
    """What carries out tasks at the embedded site."""

    PROCESS_POOL = "process-pool"
    PARSL = "parsl"
    GLOBUS_COMPUTE = "globus-compute"
    COMPUTE_ENDPOINT = "compute-endpoint"


@dataclass(slots=True)
class State:
    """What the whole invocation knows."""

    debug: bool = False
    output: Format = Format.TEXT


def state_of(context: Any) -> State:
    """The invocation's state, made on first need."""
    return context.find_root().ensure_object(State)  # type: ignore[no-any-return]


def _remember(context: typer.Context, value: Format) -> Format:
    state_of(context).output = value
    return value


Output = Annotated[
    Format,
    typer.Option(
        "--output",
        "-o",
        callback=_remember,
        is_eager=True,
        help="Tables for people, or one JSON document on standard output and nothing else there.",
    ),
]
Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="The acquisition, as the microscope wrote it.")
]
RunId = Annotated[
    str, typer.Argument(metavar="RUN", help="A run's id, an unambiguous beginning of it, or `last`.")
]
SiteName = Annotated[
    str, typer.Option("--site", help="Where it runs: `local`, a profile's name, or a profile's TOML file.")
]
StartAt = Annotated[
    str | None, typer.Option("--start-at", metavar="STEP", help="First step; by default the first of all.")
]
OnGateFail = Annotated[
    str | None,
    typer.Option(
        "--on-gate-fail",
        metavar="stop|continue",
        help="What to do with a registered stack that the gate fails; by default stop.",
    ),
]
StopAfter = Annotated[
    str | None, typer.Option("--stop-after", metavar="STEP", help="Last step; by default the last of all.")
]
Sections = Annotated[
    str | None,
    typer.Option("--sections", metavar="FIRST:END", help="Take only these z indices; 3:9 is 3 to 8."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STEP.NAME=VALUE",
        help="A parameter, e.g. segment.overlap_zyx_px=24,24,24. May be given several times.",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Worker processes of the embedded site; default: cores."),
]
MemoryGib = Annotated[
    float | None,
    typer.Option(
        "--memory-gib",
        min=0.4,
        help="Memory that a unit of work may fill, interpreter and libraries with it; default: no limit.",
    ),
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until the run ends and show progress meanwhile.")]
Engine = Annotated[
    EngineName | None,
    typer.Option(
        "--engine",
        help="What carries out tasks at the embedded site: a pool of processes (default), Parsl, the engine"
        " of a Compute endpoint, or an endpoint that runs.",
    ),
]
EngineConfig = Annotated[
    Path | None,
    typer.Option(
        "--engine-config",
        metavar="FILE",
        help="The engine's blocks: a site's profile (TOML), or an endpoint's rendered YAML: Slurm, PBS Pro,"
        " accelerators.",
    ),
]
Outbox = Annotated[
    Path | None,
    typer.Option(
        "--outbox",
        metavar="FOLDER",
        help="Where documents wait to be moved; the instrument collection must show it. Default: home.",
    ),
]
BoxText = Annotated[
    str | None,
    typer.Option("--box", metavar="Z0:Z1,Y0:Y1,X0:X1", help="Only this box, half-open; one range for all."),
]
Background = Annotated[
    bool, typer.Option("--background/--no-background", help="Whether voxels of the truth's 0 count.")
]
