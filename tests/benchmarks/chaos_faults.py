"""One fault at a time: what a person is told, what is published all the same, and what mends it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import log2
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from flows.records import RunStatus
from functions.model.parameters import FanOutParameters, Parameters
from functions.model.subvolumes import Subvolume
from functions.store.labels import grid_of, local_path
from functions.store.transforms import aligned_volume_ref
from tests.benchmarks.chaos_site import Site, account, begun_in

DISK_MIB = 64
SPARE_BYTES = 1_000_000
"""Left free when the disk is filled: enough to begin, not to go on."""
CREW = 4
"""Subvolumes in progress in a process beside a poison one."""
POISON_ATTEMPTS = 4
Wanted = dict[str, str]


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _told(site: Site) -> list[str]:
    """What a person sees: the run's error, and the problems of its steps."""
    record, steps = site.runs.show(site.record.id)
    problems = [f"{s.name}: {p.code}: {p.subject}; {p.remedy}" for s in steps for p in s.problems]
    return [*([record.error] if record.error else []), *problems]


def _names(told: list[str], *words: str) -> bool:
    return any(word in line for line in told for word in words)


# -- a full disk --------------------------------------------------------------------------------------------
def full_disk(site: Site, wanted: Wanted) -> dict[str, Any]:
    """Scratch is full in the middle of segmentation: the run says so; with room again it goes on."""
    try:
        with _small_disk(site.home / "scratch") as mounted:
            return _on_a_full_disk(site, wanted) if mounted else _no_small_disk()
    finally:
        _say("full disk: done")


def _no_small_disk() -> dict[str, Any]:
    return {"passed": True, "skipped": "a file system of its own can be mounted by root only"}


@contextmanager
def _small_disk(folder: Path) -> Iterator[bool]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "chaos", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=False)


def _on_a_full_disk(site: Site, wanted: Wanted) -> dict[str, Any]:
    site.start(stop_after="align_render")
    site.finish()
    ballast = site.home / "scratch" / "ballast"
    room = shutil.disk_usage(ballast.parent).free - SPARE_BYTES
    with open(ballast, "wb") as handle:
        handle.write(b"\0" * max(room, 0))
    site.start(start_at="segment", stop_after="publish")
    refused = site.finish()
    told = _told(site)
    ballast.unlink()
    site.start(start_at="segment", stop_after="publish")
    mended = site.finish()
    identical = site.published() == wanted
    named = _names(told, "No space left", "make room", "disk is full")
    return {
        "passed": refused is not RunStatus.SUCCEEDED and named and identical,
        "told": told[:3],
        "status": refused.value,
        "mended": mended.value,
        "identical": identical,
    }


# -- truncated chunks ---------------------------------------------------------------------------------------
def truncated_image(site: Site, wanted: Wanted, rng: random.Random) -> dict[str, Any]:
    """A chunk of the aligned image was cut short: what needs it is refused by name, not guessed."""
    site.start(stop_after="align_render")
    site.finish()
    run = site.run
    array = Path(run.work) / aligned_volume_ref(run.aligned, "image").path
    chunk = _cut_short(rng.choice(_chunks(array)))
    site.start(start_at="segment", stop_after="publish")
    status = site.finish()
    told = _told(site)
    quarantined = [found.unit for found in run.cell("segment").ledger.quarantined()]
    silent = status is RunStatus.SUCCEEDED and not quarantined and site.published() != wanted
    # as the message says, and nothing else: a retry is only spoken of where something was put aside
    site.start(start_at="align_render", stop_after="publish", retry=bool(quarantined))
    mended = site.finish()
    identical = site.published() == wanted
    _say(f"truncated image: {status.value}, then {mended.value}")
    row = int(chunk.relative_to(array / "c").parts[0])
    section = next(s.section.id for s in run.sections if s.section.z == run.aligned.sections[row])
    drawn_again = begun_in(Path(run.work), "align_render")
    return {
        "passed": status is not RunStatus.SUCCEEDED
        and not silent
        and identical
        and any(section in line and "align_render" in line for line in told)
        and (not quarantined or any("--retry-quarantined" in line for line in told))
        and [unit for unit, n in drawn_again.items() if n > 1] == [section],
        "chunk": f"{chunk.relative_to(run.work)}",
        "told": told[:3],
        "status": status.value,
        "quarantined": quarantined,
        "mended": mended.value,
        "identical": identical,
    }


def truncated_labels(site: Site, wanted: Wanted, rng: random.Random) -> dict[str, Any]:
    """The labels of a subvolume were cut short behind its mark: the next step refuses them by name."""
    site.start(stop_after="segment")
    site.finish()
    run = site.run
    subvolume = rng.choice(list(grid_of(run)))
    damaged = _cut_short(rng.choice(_chunks(local_path(run, subvolume))))
    site.start(start_at="match", stop_after="publish")
    status = site.finish()
    told = _told(site)
    site.start(start_at="segment", stop_after="publish")
    mended = site.finish()
    identical = site.published() == wanted
    _say(f"truncated labels: {status.value}, then {mended.value}")
    return {
        "passed": status is not RunStatus.SUCCEEDED
        and identical
        and _names(told, subvolume.id, damaged.name),
        "chunk": f"{damaged.relative_to(run.work)}",
        "told": told[:3],
        "status": status.value,
        "mended": mended.value,
        "identical": identical,
    }


def _chunks(path: Path) -> list[Path]:
    """The files of an array that hold its data; of one file, itself."""
    if path.is_file():
        return [path]
    return sorted(
        p for p in path.rglob("*") if p.is_file() and p.name != "zarr.json" and p.stat().st_size > 8
    )


def _cut_short(path: Path) -> Path:
    os.truncate(path, path.stat().st_size // 2)
    return path


# -- a poison subvolume -------------------------------------------------------------------------------------
def poison(
    folder: Path, quiet: Site, stack: Path, parameters: Parameters, unit: str, rng: random.Random
) -> dict[str, Any]:
    """A subvolume that ends whoever segments it, with all that are in progress beside it in a crew: reported,
    the rest published; without crews and killed at random, the same."""
    crew = _poisoned(folder / "poison", stack, parameters, unit, at_once=CREW)
    crew.start()
    status = crew.finish()
    told = _told(crew)
    killed = _poisoned(folder / "poison-killed", stack, parameters, unit, at_once=1)
    kills = _kill_sometimes(killed, rng)
    quarantined = {"crew": _put_aside(crew), "killed": _put_aside(killed)}
    attempts = account(crew.work, killed=set())["segment"]
    begun = begun_in(crew.work, "segment")
    subvolume = next(s for s in grid_of(crew.run) if s.id == unit)
    same_elsewhere, empty_inside = _compared(quiet, crew, subvolume)
    identical = killed.published() == crew.published() != {}
    _say(f"poison: {status.value}, quarantined {quarantined}, identical after {kills} kills: {identical}")
    return {
        "passed": quarantined == {"crew": [unit], "killed": [unit]}
        and _names(told, unit)
        and status is RunStatus.SUCCEEDED
        and attempts.done == attempts.units - 1
        and begun[unit] == int(log2(CREW)) + POISON_ATTEMPTS
        and same_elsewhere
        and empty_inside
        and identical,
        "unit": unit,
        "at_once": CREW,
        "status": status.value,
        "reported": told[:3],
        "quarantined": quarantined,
        "deaths": begun[unit],
        "neighbours_begun_again": attempts.begun - attempts.units - begun[unit] + 1,
        "same_mask_elsewhere": same_elsewhere,
        "empty_inside": empty_inside,
        "identical_after_kills": identical,
        "kills": kills,
    }


def _put_aside(site: Site) -> list[str]:
    return [found.unit for found in site.run.cell("segment").ledger.quarantined()]


def _poisoned(home: Path, stack: Path, parameters: Parameters, unit: str, *, at_once: int) -> Site:
    home.mkdir()
    segment = parameters.segment.model_copy(update={"at_once": at_once})
    patient = FanOutParameters(max_attempts=POISON_ATTEMPTS)
    changed = parameters.model_copy(update={"segment": segment, "fan_out": patient})
    return Site(home=home, source=stack, parameters=changed, poison=unit)


def _kill_sometimes(site: Site, rng: random.Random, *, kills: int = 6) -> int:
    """End the whole site a few times, far apart: no other subvolume is put aside for it."""
    done = 0
    site.start()
    while site.alive or site.record.status is RunStatus.INTERRUPTED:
        until = time.monotonic() + rng.uniform(4, 10)
        while site.alive and (time.monotonic() < until or done == kills):
            time.sleep(0.1)
        if site.alive:
            site.kill(None)
            done += 1
            site.start()
    site.finish()
    return done


def _compared(quiet: Site, poisoned: Site, subvolume: Subvolume) -> tuple[bool, bool]:
    """Whether the same voxels are labelled outside what the subvolume read, and none in its own middle."""
    labels = [_published_labels(site) for site in (quiet, poisoned)]
    outside = np.ones(labels[0].shape, bool)
    outside[subvolume.read.slices] = False
    own = labels[1][_middle(subvolume)]
    same = bool(((labels[0] > 0) == (labels[1] > 0))[outside].all())
    return same, not own.any()


def _published_labels(site: Site) -> np.ndarray:
    path = Path(site.record.published_path or "") / "volume.zarr/labels/segmentation/0"
    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def _middle(subvolume: Subvolume) -> tuple[slice, ...]:
    """The part of the write box that no neighbour reads."""
    box = subvolume.read
    return tuple(
        slice(start + size // 3, start + size - size // 3)
        for start, size in zip(box.offset_zyx, box.shape_zyx, strict=True)
    )
