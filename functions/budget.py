"""What steps make of the memory that a worker is given.

A worker begins with `BASE_MIB` (interpreter and libraries). The rest of `--memory-gib` is its *room*. Steps
that can work in smaller pieces choose them by the room: results do not depend on it. The others need what
their unit takes, which follows from its geometry (`functions.needs`).

| step | pieces by the room |
|---|---|
| stitch, align_render | tiles that are kept |
| align_pairs | the window |
| align_solve | whether equations are held in memory, or in files |
| segment | how many subvolumes are in progress |
| reconcile | blocks |
| relabel | parts of a box |
| candidates | planes that are grown at a time |
| resegment | pairs that are read, and flooded, at once |
| agglomerate | edges that are held at once |
| ingest, match, finish | none |
"""

from __future__ import annotations

from dataclasses import replace

from functions.model.errors import MemoryBudgetError
from functions.model.geometry import ZYX
from functions.needs import (
    BASE_MIB,
    CACHE_SHARE,
    FLOOD_BYTES,
    LEAST_WINDOW_PX,
    MIB,
    RELABEL_MIB,
    WINDOW_BYTES,
    WINDOW_MIB,
    Need,
    geometry_of,
    need_of,
    relabel_bytes,
)
from functions.networks import count_at_once
from functions.pair_memory import MOST_EDGES, Reflooded, Searched, held_edges
from functions.solve_memory import Solved
from functions.store.edges import count_mapped
from functions.store.equalities import highest_object
from functions.store.run import Run
from functions.store.tiles import CACHE_BYTES

JOINING_MIB = 3072
"""Memory that joining a block may take where no budget is given."""
READ_VOXELS = 1 << 25
"""At most so many are read at a time for pairs that are flooded again."""
WINDOW_STEP_PX = 128
BESIDE_BYTES = 16
"""Read ahead and written behind, for each voxel of a subvolume."""


def room_mib(run: Run) -> float | None:
    """What a unit of this run may take; None where no budget is given."""
    gib = run.spec.memory_gib
    return None if gib is None else max(0.0, 1024 * gib - BASE_MIB)


def tile_cache_bytes(run: Run) -> int:
    """So much of tiles is kept to be read again."""
    room = room_mib(run)
    return CACHE_BYTES if room is None else min(CACHE_BYTES, int(CACHE_SHARE * room * MIB))


def window_px(run: Run) -> int:
    """Side of the windows in which sections are compared: as asked for, or less where that does not fit."""
    wanted, room = run.parameters.align.window_px, room_mib(run)
    if room is None:
        return wanted
    side = int(max(0.0, (room - WINDOW_MIB) * MIB / WINDOW_BYTES) ** 0.5)
    return min(wanted, max(LEAST_WINDOW_PX, side // WINDOW_STEP_PX * WINDOW_STEP_PX))


def holds_equations(run: Run) -> bool:
    """Whether the equations of a stack fit into memory while it is solved."""
    room = room_mib(run)
    return room is None or Solved.of(geometry_of(run).shape_zyx, run.parameters.align).mib(held=True) <= room


def relabel_voxels(run: Run) -> float:
    """Voxels of the global labels that are put together at a time."""
    room = room_mib(run)
    if room is None:
        return float("inf")
    return max(0.0, room - RELABEL_MIB) * MIB / relabel_bytes(run.parameters)


def has_room_for_two(run: Run) -> bool:
    """Whether a subvolume can be read ahead, and another written behind the one that is flooded."""
    room = room_mib(run)
    if room is None:
        return True
    need = _segment_need(run)
    return need.mib * (1 + BESIDE_BYTES / FLOOD_BYTES) <= room


def subvolumes_at_once(run: Run) -> int:
    """How many subvolumes a worker process floods at once: as many as are wanted and have room, at least one.

    Raises:
        ModelError: there is no such device.
    """
    wanted, room = count_at_once(run.parameters.segment), room_mib(run)
    if room is None:
        return wanted
    need = _segment_need(run)
    return max(1, min(wanted, int(room * (run.parameters.segment.at_once or 1) / need.mib)))


def joining_mib(run: Run) -> int:
    """Memory that joining a block may take."""
    room = room_mib(run)
    return JOINING_MIB if room is None else min(JOINING_MIB, int(0.8 * room))


def search_planes(run: Run) -> int | None:
    """Planes of a block of candidates that are grown at a time; None: all."""
    room = room_mib(run)
    if room is None:
        return None
    geometry = geometry_of(run)
    block = Searched.of(geometry.shape_zyx, geometry.voxel_size_zyx_nm, run.parameters.candidates)
    return block.planes(room)


def reflooding_pieces(run: Run, fov_zyx: ZYX) -> tuple[int | None, int]:
    """Pairs that are flooded at once (None: as many as the network takes), and voxels read at a time."""
    room = room_mib(run)
    if room is None:
        return None, READ_VOXELS
    pair = Reflooded.of(run.aligned.volume.shape_zyx, fov_zyx, run.parameters.segment)
    pairs, voxels = pair.pieces(room)
    return pairs, min(READ_VOXELS, voxels)


def edges_at_once(run: Run, objects: int) -> int:
    """How many edges are put in order in memory, beside so many objects."""
    room = room_mib(run)
    return MOST_EDGES if room is None else held_edges(room, objects)


def require_room(run: Run, step: str) -> None:
    """Refuse a step whose units cannot fit, before it is started.

    Raises:
        MemoryBudgetError: with what it needs, what there is, and what would help.
    """
    gib = run.spec.memory_gib
    if gib is None:
        return
    geometry = geometry_of(run)
    if step == "agglomerate" and run.agglomerates:
        geometry = replace(geometry, objects=highest_object(run))
    if step == "finish":
        geometry = replace(geometry, mapped=count_mapped(run))
    need = need_of(geometry, step)
    if need is not None and need.worker_gib > gib:
        raise MemoryBudgetError(
            f"{step}: {need.of} takes about {need.worker_gib:.2f} GiB of a worker, {gib:g} GiB are given",
            remedy=f"--memory-gib {need.worker_gib:.1f} or more; or {need.remedy}",
        )


def _segment_need(run: Run) -> Need:
    need = need_of(geometry_of(run), "segment")
    assert need is not None
    return need
