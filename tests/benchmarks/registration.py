"""Stitching and alignment beside FEABAS, on sets with exactly known truth.

    python -m tests.benchmarks.registration --sets S1,S2,R1,A3 --seeds 1,2,3 --peers feabas --threads 1

The sets are made and scored by the tools in `shared/tools` (see there for what they hold): S1 and S2 are
tiles, R1 is one section imaged again and again, A3 are slices 10 nm apart. Each system runs on each set in a
process of its own, one after the other, with as many threads as asked for: so peak memory and seconds are
fair. Seconds are of the wall clock from files on disk to drawn files on disk, start of the interpreter
included; CPU seconds stand beside them, for machines that do other work too. `ours_masked` is ours with the
true fold and crack masks given, `ours_by_stage` with `align.trust_stage`.

The raw slices of A3 are not aligned to the pixel: tissue moves from slice to slice, and the truth takes that
for nothing. `A3.raw_drift_mean_px` says by how much, measured on the raw slices by plain cross-correlation
(`registration_drift`), and `ours.A3.nbr_mean_beyond_raw_drift` what is left of the neighbour error without
it, the same for all systems. The scored figures stay what they are.

One JSON document goes to stdout: figures averaged over the seeds (`ours.S1.seam_p95`, `feabas.A3.nbr_mean`,
`ratio.A3.nbr_mean` = ours / FEABAS, ...), the same by seed, and the bars. Progress goes to stderr. What peers
found is kept in `--work` and not done again unless `--fresh` is given; ours is always run.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from tests.benchmarks.registration_bars import (
    DRIFTING,
    STITCH,
    Figures,
    average,
    bars,
    flatten,
    named,
    with_ratios,
)
from tests.benchmarks.registration_peers import CACHE, environment

HERE = Path(__file__).resolve().parent
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """Where things are, and what every run shares."""

    shared: Path
    work: Path
    python: Path
    """Of the peers' environment."""
    threads: int

    @property
    def tools(self) -> Path:
        """The makers of sets and the scorer."""
        return self.shared / "tools"

    def judge(self, what: str, folder: Path, file: Path) -> str:
        """What `registration_judge.py` prints."""
        command = [self.python, HERE / "registration_judge.py", self.tools, what, folder, file]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def make_set(self, name: str, seed: int) -> Path:
        """The folder of a set; made if it is not there."""
        folder = self.work / "sets" / f"{name}-{seed}"
        if not folder.exists():
            tell(f"{name}-{seed}: making the set")
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            kind = "stitch" if name in STITCH else "align"
            maker = [self.python, self.tools / "registration_sets.py", kind, "--set", name]
            subprocess.run([*maker, "--seed", str(seed), "--out", partial], check=True, stdout=sys.stderr)
            self.judge("points", partial, partial / "points.npz")
            if kind == "align":
                self.judge("artefacts", partial, partial / "artefacts.npz")
            partial.rename(folder)
        if name in DRIFTING and not (folder / "drift.npz").exists():
            tell(f"{name}-{seed}: measuring how the raw slices drift")
            self.judge("drift", folder, folder / "drift.npz")
        return folder

    def run(self, system: str, folder: Path, *, fresh: bool = True) -> Figures:
        """One system on one set: its figures.

        Unless `fresh`, it is not run again where the same driver has run on the same set before.
        """
        out = self.work / "runs" / f"{folder.name}-{system}-{self._key(system, folder)}"
        if fresh or not (out / "figures.json").exists():
            self._execute(system, folder, out)
        score = json.loads(self.judge("score", folder, out / "mapped.npz"))
        found = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        return flatten(score, found, megapixels(folder))

    def _execute(self, system: str, folder: Path, out: Path) -> None:
        """Run a system in a process of its own; `out` gets `mapped.npz` and `figures.json`."""
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        variables = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(self.threads))}
        command = [*self._driver(system), folder, folder / "points.npz", out, "--threads", str(self.threads)]
        if system.endswith("_by_stage"):
            command.append("--trust-stage")
        if system.endswith("_masked"):
            command += ["--artefacts", folder / "artefacts.npz"]
        command += ["--started", f"{time.time():.3f}"]
        with open(out / "log", "wb") as log:
            done = subprocess.run(command, env=variables, stdout=log, stderr=subprocess.STDOUT)
        if done.returncode:
            raise SystemExit(f"{system} on {folder.name} failed; see {out / 'log'}")
        shutil.rmtree(out / "work", ignore_errors=True)

    def _driver(self, system: str) -> list[str | Path]:
        if system.startswith("ours"):
            return [sys.executable, "-m", "tests.benchmarks.registration_ours"]
        return [self.python, HERE / f"registration_{system}.py"]

    def _key(self, system: str, folder: Path) -> str:
        """Of what a peer's result depends on: its environment, its driver with all settings, the set."""
        files = sorted(HERE.glob(f"registration_{system.removesuffix('_masked')}*.py"))
        parts = [str(self.python).encode(), *(f.read_bytes() for f in files), str(self.threads).encode()]
        parts.append((folder / "truth.npz").read_bytes())
        return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def megapixels(folder: Path) -> float:
    """Of all images of a set."""
    files = [*folder.glob("tiles/*.png"), *folder.glob("sections/*.png")]
    return sum(image.width * image.height for image in map(Image.open, files)) / 1e6


def tell(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def measure(
    bench: Bench, sets: list[str], seeds: list[int], peers: list[str], *, fresh: bool = False
) -> dict[str, Any]:
    """Run every system on every set; the document that the command prints."""
    by_seed: dict[str, Figures] = {}
    for seed in seeds:
        found: Figures = {}
        for name in sets:
            folder = bench.make_set(name, seed)
            for system in [*own_systems(name), *peers]:
                tell(f"{name}-{seed}: {system}")
                figures = bench.run(system, folder, fresh=fresh or system not in peers)
                found |= named(system, name, figures)
        by_seed[str(seed)] = with_ratios(found, peers[0]) if peers else found
    figures = average(list(by_seed.values()))
    if peers:
        figures = with_ratios({k: v for k, v in figures.items() if not k.startswith("ratio.")}, peers[0])
    machine = {"cpus": os.cpu_count(), "load_average": os.getloadavg(), "threads": bench.threads}
    return {**figures, "by_seed": by_seed, "bars": bars(figures), "machine": machine, "seeds": seeds}


def own_systems(name: str) -> list[str]:
    """What of ours is run on a set."""
    return [
        "ours",
        *(["ours_masked"] if name not in STITCH else []),
        *(["ours_by_stage"] if name in DRIFTING else []),
    ]


def words(text: str) -> list[str]:
    """Names between commas; none for an empty text."""
    return [word for word in text.split(",") if word]


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description="Stitching and alignment beside FEABAS, on sets with known truth"
    )
    parser.add_argument("--sets", type=words, default=words("S1,S2,R1,A3"))
    parser.add_argument("--seeds", type=lambda text: [int(w) for w in words(text)], default=[1, 2, 3])
    parser.add_argument("--peers", type=words, default=["feabas"], help="'' for none")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path, default=Path("../shared"), help="holds data/ and tools/")
    parser.add_argument("--work", type=Path, default=CACHE.parent / "registration")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where the peers' environment is made")
    parser.add_argument("--fresh", action="store_true", help="run peers again that have been run")
    arguments = parser.parse_args()
    if not (arguments.data / "tools" / "registration_sets.py").exists():
        parser.error(f"--data {arguments.data}: no tools/registration_sets.py in it")
    bench = Bench(
        shared=arguments.data.resolve(),
        work=arguments.work.resolve(),
        python=environment(tuple(arguments.peers), arguments.cache),
        threads=arguments.threads,
    )
    document = measure(bench, arguments.sets, arguments.seeds, arguments.peers, fresh=arguments.fresh)
    print(json.dumps(document, indent=1))


if __name__ == "__main__":
    main()
