"""What is simulated, and on which assumptions: every figure has its source and can be changed.

`petavoxel plan --simulate --set-sim NAME=VALUE` changes one, `--sim-file SITE.toml` several.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from functions.footprint import LOCAL_LABEL_BYTES
from functions.model.errors import TaskError
from functions.tasks import MAX_SHARDS

PUBLISHED, DESIGN, ASSUMED, MEASURED = "published", "this code", "assumed", "measured"


def _sim(default: float, unit: str, kind: str, source: str, *, least: float = 0.0) -> Any:
    return field(default=default, metadata={"unit": unit, "kind": kind, "source": source, "least": least})


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """The site and the design, one worker a GPU. Rates are per second, times as their names say.

    Raises:
        ValueError: a figure is below its least value, or blocks end before a worker can keep anything.
    """

    gpus_per_node: int = _sim(4, "GPUs", PUBLISHED, "Polaris and Perlmutter have 4, Aurora 6", least=1)
    block_nodes: int = _sim(64, "nodes", ASSUMED, "nodes of one batch job", least=1)
    queue_wait_hours: float = _sim(
        1.0, "h", ASSUMED, "mean wait of a block in the batch queue, exponential; each block by itself"
    )
    walltime_hours: float = _sim(
        24.0, "h", ASSUMED, "a block then ends and waits in the queue again", least=1e-3
    )
    worker_start_s: float = _sim(60.0, "s", ASSUMED, "imports, weights, compilation of a worker")
    straggler_sigma: float = _sim(
        0.3, "", ASSUMED, "sigma of the log of a subvolume's seconds; --calibrate measures it"
    )
    failures_per_node_hour: float = _sim(
        1.6e-4,
        "1/h",
        PUBLISHED,
        "419 unexpected interruptions in 54 days of 2,048 nodes (Llama 3, arXiv 2407.21783, 3.3.4)",
    )
    node_restart_hours: float = _sim(0.5, "h", ASSUMED, "until a failed node is replaced in its block")
    checkpoint_seconds: float = _sim(300.0, "s", DESIGN, "segment.checkpoint_seconds; 0 keeps nothing")
    lease_s: float = _sim(
        600.0,
        "s",
        DESIGN,
        "fan_out.lease_seconds: what a vanished worker held is claimed anew (10 lost beats)",
    )
    heartbeat_s: float = _sim(60.0, "s", DESIGN, "each worker renews its lease so often", least=1e-3)
    claim_ops: float = _sim(
        2.1,
        "operations",
        MEASURED,
        "look for a later claim, for a checkpoint; 1/64 of claiming and ending a lot",
    )
    finish_ops: float = _sim(
        4.0, "operations", DESIGN, "attempt and mark appended; labels created and renamed: 2 + 2", least=1
    )
    ledger_ops_per_s: float = _sim(
        5000.0,
        "1/s",
        ASSUMED,
        "that one metadata server serves; tests.benchmarks.ledger: one process, local disk: 16,000",
        least=1e-3,
    )
    read_bytes_per_voxel: float = _sim(3.0, "bytes", DESIGN, "image, mask, artefact codes, uncompressed")
    write_bytes_per_voxel: float = _sim(
        LOCAL_LABEL_BYTES, "bytes", MEASURED, "deflated local labels of the phantom; --calibrate measures it"
    )
    checkpoint_bytes_per_voxel: float = _sim(
        8.0, "bytes", DESIGN, "float32 belief and int32 labels, uncompressed"
    )
    fs_gbytes_per_s: float = _sim(
        650.0, "GB/s", PUBLISHED, "Eagle (alcf.anl.gov), all of it; readers and writers share it", least=1e-6
    )
    worker_gbytes_per_s: float = _sim(
        1.0, "GB/s", ASSUMED, "most that one worker reads or writes", least=1e-6
    )
    tasks: int = _sim(
        MAX_SHARDS, "tasks", DESIGN, "most tasks of one fan-out (functions.tasks.MAX_SHARDS)", least=1
    )
    most_subvolumes: int = _sim(
        2_000_000,
        "subvolumes",
        DESIGN,
        "of more, a k-th part is simulated: GPUs, bandwidth and ledger divided by k, a GPU's share as it is",
        least=1,
    )
    seed: int = _sim(1, "", DESIGN, "equal seeds give equal results")

    def __post_init__(self) -> None:
        for item in fields(self):
            value, least = getattr(self, item.name), item.metadata["least"]
            if not (math.isfinite(value) and value >= least):
                raise ValueError(f"{item.name}: {value:g} must be at least {least:g}")
        if self.walltime_hours * 3600 <= self.worker_start_s + self.checkpoint_seconds:
            raise ValueError(
                f"walltime_hours: {self.walltime_hours:g} leaves no time behind worker_start_s and"
                " checkpoint_seconds; blocks would end before anything is kept"
            )

    def changed(self, values: Mapping[str, object], *, source: str) -> Machine:
        """A copy with some figures replaced.

        Raises:
            TaskError: no such figure, not a number, or out of its range; names `source` and the field.
        """
        known = {item.name: item for item in fields(self)}
        parsed: dict[str, Any] = {}
        for name, value in values.items():
            if name not in known:
                raise TaskError(
                    f"{source}: {name}: no such figure", remedy=f"use one of {', '.join(sorted(known))}"
                )
            parsed[name] = _number(value, whole=known[name].type == "int", place=f"{source}: {name}")
        try:
            return replace(self, **parsed)
        except ValueError as error:
            raise TaskError(f"{source}: {error}", remedy="give another value") from None

    def table(self, changed: Mapping[str, str] | None = None) -> list[dict[str, Any]]:
        """Every figure with unit, kind and source; `changed` names those given or measured, and by what."""
        sources = changed or {}
        return [
            {
                "name": item.name,
                "value": getattr(self, item.name),
                "unit": item.metadata["unit"],
                "kind": "given" if item.name in sources else item.metadata["kind"],
                "source": sources.get(item.name, item.metadata["source"]),
            }
            for item in fields(self)
        ]


def _number(value: object, *, whole: bool, place: str) -> float | int:
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(str(value))
        if whole and number != int(number):
            raise ValueError
    except (ValueError, OverflowError):
        kind = "a whole number" if whole else "a number"
        raise TaskError(f"{place}: {value!r} is not {kind}", remedy="write it like 100 or 1.5e3") from None
    return int(number) if whole else number


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What there is to do: `subvolumes` of `voxels` each, at `seconds` of one GPU on average.

    Raises:
        ValueError: a field is not positive; the message names it.
    """

    subvolumes: int
    voxels: float
    seconds: float
    gpus: int

    def __post_init__(self) -> None:
        for item in fields(self):
            if not getattr(self, item.name) > 0:
                raise ValueError(f"{item.name}: {getattr(self, item.name)} must be positive")


def file_bytes(work: Work, machine: Machine) -> float:
    """Bytes that one average subvolume reads and writes, its checkpoints included."""
    m = machine
    saves = work.seconds // m.checkpoint_seconds if m.checkpoint_seconds else 0
    each = m.read_bytes_per_voxel + m.write_bytes_per_voxel + saves * m.checkpoint_bytes_per_voxel
    return each * work.voxels


def cycle_seconds(work: Work, machine: Machine) -> float:
    """Seconds of one worker for an average subvolume when it waits for nobody."""
    m = machine
    ledger = (m.claim_ops + m.finish_ops) / m.ledger_ops_per_s
    return work.seconds + file_bytes(work, m) / (m.worker_gbytes_per_s * 1e9) + ledger
