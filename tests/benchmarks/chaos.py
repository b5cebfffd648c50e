"""A run that is killed at random, with a clock that jumps, beside one that is left alone: the same bytes?

    python -m tests.benchmarks.chaos [--kills 200] [--seed 0] [--folder DIR] [--keep]

The embedded site runs a phantom of at least 64 subvolumes. Workers, and the site with all its workers, are
ended by `kill -9` at random moments of all steps, and the site is started again each time; after some kills
the clock of its processes jumps by hours. Every attempt at a unit beyond one must be explained by a kill that
hit it in flight, and what processes segmented to its end is counted beside what they wrote down. Then one
fault at a time: a full disk, a truncated chunk of the image and one of the labels, and a poison subvolume,
which ends whoever segments it, with all that is in progress in the same process. One JSON document goes to
stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.local.process import begun
from flows.records import RunStatus
from functions.model.parameters import FanOutParameters, Parameters
from tests.benchmarks.chaos_faults import full_disk, poison, truncated_image, truncated_labels
from tests.benchmarks.chaos_site import (
    WORKERS,
    Site,
    account,
    begun_in,
    segmented,
    subvolumes,
    unaccounted,
)
from tests.benchmarks.phantom_stack import parameters_of, write_stack

SUBVOLUME, OVERLAP = (20, 32, 32), (4, 8, 8)
COUNTS = (3, 8, 8)
SITE_SHARE, JUMP_SHARE = 0.2, 0.3
"""So many of the kills hit the whole site; after so many the clock jumps."""
UNIT_SECONDS = 0.3
AFTERWARDS = 0.2
"""So many of the kills are kept for the steps behind segmentation."""
MANY_ATTEMPTS = 1000
"""Random kills are nobody's fault: no unit is to be put aside for them."""


@dataclass(slots=True, kw_only=True)
class Disturbed:
    """What was done to a run, and what became of it."""

    worker_kills: int = 0
    site_kills: int = 0
    clock_jumps: int = 0
    by_step: dict[str, int] = field(default_factory=dict)
    ended_badly: list[str] = field(default_factory=list)
    """Errors of runs that failed and were repeated."""
    succeeded: bool = False

    @property
    def kills(self) -> int:
        """All of them."""
        return self.worker_kills + self.site_kills


def say(text: str) -> None:
    """Progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def disturb(site: Site, *, kills: int, rng: random.Random, total: int) -> Disturbed:
    """Run to the end with `kills` kills on the way, fewer if the run is over before."""
    done = Disturbed()
    site.start()
    while done.kills < kills:
        if not _wait_for_work(site):
            if site.finish() is RunStatus.SUCCEEDED:
                done.succeeded = True
                return done
            done.ended_badly.append(str(site.record.error))
            site.start()
            continue
        time.sleep(rng.uniform(0, _spread(site, kills - done.kills, kills, total)))
        _kill_one(site, done, rng)
        if done.kills % 10 == 0:
            say(f"{done.kills} kills, {segmented(site)} of {total} subvolumes")
    while not done.succeeded:
        if site.finish() is RunStatus.SUCCEEDED:
            done.succeeded = True
        else:
            done.ended_badly.append(str(site.record.error))
            if len(done.ended_badly) > 20:
                return done
            site.start()
    return done


def _kill_one(site: Site, done: Disturbed, rng: random.Random) -> None:
    workers = site.workers()
    step = _step(site)
    if rng.random() < SITE_SHARE or not workers:
        site.kill(None)
        done.site_kills += 1
    else:
        site.kill(rng.choice(workers))
        done.worker_kills += 1
    done.by_step[step] = done.by_step.get(step, 0) + 1
    if rng.random() < JUMP_SHARE:
        site.set_clock(rng.uniform(-6, 6) * 3600)
        done.clock_jumps += 1
    if not site.alive:
        site.start()


def _step(site: Site) -> str:
    """The step that is under way."""
    running = [step.name for step in site.runs.show(site.record.id)[1] if step.status.value == "ACTIVE"]
    return running[-1] if running else "between"


def _wait_for_work(site: Site) -> bool:
    """Wait until the site has begun something new since now, or for a while; False when it has ended."""
    before, until = _begun(site), time.monotonic() + 20
    while site.alive and time.monotonic() < until:
        if _begun(site) > before:
            return True
        time.sleep(0.03)
    return site.alive


def _begun(site: Site) -> int:
    return begun({"input": {"run": {"work": str(site.work), "acquisition": "any"}}})


def _spread(site: Site, left: int, kills: int, total: int) -> float:
    """Seconds within which the next kill comes, so that the work lasts as long as the kills."""
    open_units = total - segmented(site)
    in_segmentation = left - AFTERWARDS * kills
    if open_units == 0 or in_segmentation <= 0:
        return 1.0
    return min(5.0, max(0.05, 2 * UNIT_SECONDS * open_units / (WORKERS * in_segmentation)))


def chaos(
    folder: Path, *, kills: int, seed: int, counts_zyx: tuple[int, int, int] = COUNTS
) -> dict[str, Any]:
    """The whole document."""
    begin = time.monotonic()
    stack = write_stack(
        folder, "stack", counts_zyx=counts_zyx, subvolume_zyx_px=SUBVOLUME, overlap_zyx_px=OVERLAP
    )
    plain = parameters_of(SUBVOLUME, OVERLAP)
    quiet = site_in(folder / "undisturbed", stack, plain)
    quiet.start()
    if quiet.finish() is not RunStatus.SUCCEEDED:
        raise SystemExit(f"the undisturbed run: {quiet.record.error}")
    wanted, names = quiet.published(), subvolumes(quiet)
    say(f"undisturbed: {len(names)} subvolumes, {len(wanted)} files")
    patient = plain.model_copy(update={"fan_out": FanOutParameters(max_attempts=MANY_ATTEMPTS)})
    rounds = disturbed_rounds(folder, stack, patient, wanted, kills=kills, seed=seed, total=len(names))
    rng = random.Random(seed)
    full = [mark.unit for mark in quiet.run.cell("segment").marks() if mark.figures["segments"] > 1]
    faults = {
        "full_disk": full_disk(site_in(folder / "full", stack, plain), wanted),
        "truncated_image": truncated_image(site_in(folder / "image", stack, plain), wanted, rng),
        "truncated_labels": truncated_labels(site_in(folder / "labels", stack, plain), wanted, rng),
        "poison": poison(folder, quiet, stack, plain, rng.choice(full), rng),
    }
    document = {
        "subvolumes": len(names),
        "seed": seed,
        "identical": all(found["identical"] for found in rounds),
        "kills": sum(found["kills"] for found in rounds),
        "redone_beyond_in_flight": sum(found["redone_beyond_in_flight"] for found in rounds),
        "rounds": rounds,
        "faults": faults,
        "seconds": round(time.monotonic() - begin, 1),
    }
    document["passed"] = passed(document, kills=kills)
    return document


def site_in(home: Path, stack: Path, parameters: Parameters) -> Site:
    """A new site."""
    home.mkdir()
    return Site(home=home, source=stack, parameters=parameters)


def disturbed_rounds(
    folder: Path,
    stack: Path,
    parameters: Parameters,
    wanted: dict[str, str],
    *,
    kills: int,
    seed: int,
    total: int,
) -> list[dict[str, Any]]:
    """Runs that are disturbed one after the other until there were so many kills: as a rule, one."""
    rounds: list[dict[str, Any]] = []
    rng = random.Random(seed)
    while (left := kills - sum(found["kills"] for found in rounds)) > 0:
        begin = time.monotonic()
        site = site_in(folder / f"disturbed-{len(rounds)}", stack, parameters)
        done = disturb(site, kills=left, rng=rng, total=total)
        accounts = account(site.work, killed=site.touched)
        seen = begun_in(site.work, "segment")
        rounds.append(
            {
                "kills": done.kills,
                **asdict(done),
                "identical": site.published() == wanted,
                "redone_beyond_in_flight": sum(found.redone for found in accounts.values()),
                "finished_twice": sum(found.twice for found in accounts.values()),
                "unaccounted": unaccounted(site.segmented_log, begun=seen, killed=site.touched),
                "lost_in_flight": accounts["segment"].lost,
                "kept_in_flight": accounts["segment"].kept,
                "attempts": {step: asdict(found) for step, found in accounts.items()},
                "seconds": round(time.monotonic() - begin, 1),
            }
        )
        say(f"round {len(rounds)}: {done.kills} kills, identical: {rounds[-1]['identical']}")
        if done.kills == 0:
            break
    return rounds


def passed(document: dict[str, Any], *, kills: int) -> bool:
    """Whether everything is as it must be."""
    return bool(
        document["subvolumes"] >= 64
        and document["kills"] >= kills
        and document["identical"]
        and document["redone_beyond_in_flight"] == 0
        and not any(found["finished_twice"] or found["unaccounted"] for found in document["rounds"])
        and all(fault["passed"] for fault in document["faults"].values())
    )


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--keep", action="store_true", help="leave the homes of the runs there")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir=asked.folder))
    try:
        document = chaos(folder, kills=asked.kills, seed=asked.seed)
    finally:
        if not asked.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(document, indent=1))
    sys.exit(not document["passed"])


if __name__ == "__main__":
    main()
