"""How fast a site segments: a few real subvolumes of a run, and what they say about all of them.

The subvolumes are computed by the run's own segment step and stay its results: nothing is computed in vain.
Few samples say little, and the intervals say so: seconds per voxel are taken as log-normal, and their mean
lies between the limits of the modified Cox method (Olsson, J. Stat. Educ. 13(1), 2005), with Student's t:

    exp( m + s^2/2  -+  t(95 %, n - 1) * sqrt( s^2/n + s^4 / (2 (n - 1)) ) )

for mean m and standard deviation s of the n logarithms. Subvolumes of a run resemble each other: the interval
tells of neither another tissue nor another load of the machine.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from statistics import fmean, stdev

import numpy as np

from ffn.masks import Masks
from functions import segment
from functions.agreeing import parameters_of
from functions.model.errors import TaskError
from functions.segmenters import FfnSegmenter, Segmenter
from functions.shown import has_tissue, read
from functions.store.labels import grid_of, local_path
from functions.store.limits import within
from functions.store.run import Run

CONFIDENCE = 0.95
FEW = 8
"""With fewer samples an interval rests on the assumed distribution more than on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One subvolume: `overhead_s` is what reading, packing and writing took besides flooding."""

    unit: str
    voxels: int
    seconds: float
    overhead_s: float
    label_bytes: int
    fresh: bool
    """Computed now; else it was done before, and its mark tells the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, one worker at a time; `start_s` is what a worker does once.

    Raises:
        ValueError: fewer than two samples: no interval follows from one.
    """

    samples: tuple[Sample, ...]
    start_s: float

    def __post_init__(self) -> None:
        if len(self.samples) < 2:
            raise ValueError(f"samples: {len(self.samples)}; an interval needs at least 2")

    @property
    def rate(self) -> float:
        """Voxels per worker and hour."""
        return 3600 / fmean(self._seconds_per_voxel)

    @property
    def rate_interval(self) -> tuple[float, float]:
        """Lower and upper limit of the mean rate at `CONFIDENCE`."""
        mean = fmean(self._seconds_per_voxel)
        low, high = mean_interval(self._seconds_per_voxel)
        return 3600 / max(high, mean), 3600 / min(low, mean)

    @property
    def sigma(self) -> float:
        """Standard deviation of the logarithm of seconds per voxel."""
        return stdev(math.log(s) for s in self._seconds_per_voxel)

    @property
    def overhead_s(self) -> float:
        """Mean seconds per subvolume besides flooding."""
        return fmean(s.overhead_s for s in self.samples)

    @property
    def label_bytes_per_voxel(self) -> float:
        """Of the local labels as they are written."""
        return sum(s.label_bytes for s in self.samples) / sum(s.voxels for s in self.samples)

    @property
    def few(self) -> bool:
        """Whether there are too few samples to check the assumed distribution."""
        return len(self.samples) < FEW

    @property
    def _seconds_per_voxel(self) -> list[float]:
        return [s.seconds / s.voxels for s in self.samples]


def calibrate(
    run: Run,
    count: int,
    *,
    segmenter: Segmenter | None = None,
    clock: Callable[[], float] = time.perf_counter,
    seed: int = 0,
) -> Calibration:
    """Segment `count` subvolumes of a run, chosen at random, those first that are not done yet.

    Those without tissue are passed over: nothing is flooded in them, and they say nothing of a rate. As many
    at once as a worker floods; each then counts with its share of the seconds that it took.

    Raises:
        TaskError: the run has fewer subvolumes with tissue than that, or `count` is below 2.
        PetavoxelError: the run has no aligned volume, or the network cannot be loaded.
    """
    grid, cell = grid_of(run), run.cell("segment")
    units = segment.units(run)
    shuffled = random.Random(seed).sample(units, len(units))

    def with_tissue(*, done: bool) -> Iterator[str]:
        for unit in shuffled:
            if cell.is_done(unit) == done and has_tissue(run, grid.get(unit).read):
                yield unit

    chosen = list(islice(chain(with_tissue(done=False), with_tissue(done=True)), max(count, 0)))
    if not 2 <= count <= len(chosen):
        raise TaskError(
            f"subvolumes: {count} of the run's {len(units)} cannot be measured, {len(chosen)} have tissue",
            remedy="take at least 2 and at most all; smaller segment.subvolume_zyx_px give more",
        )
    started = clock()
    at_once = min(segment.at_once(run), count)
    with within(run.spec.memory_gib, subject="a calibration"), ThreadPoolExecutor(at_once) as pool:
        _warm_up(run, chosen[0], segmenter)
        start_s = clock() - started
        samples = tuple(pool.map(lambda unit: _sample(run, unit, segmenter, at_once), chosen))
    return Calibration(samples=samples, start_s=start_s)


def _warm_up(run: Run, unit: str, segmenter: Segmenter | None) -> None:
    """What a worker does once, so that the first sample does not pay for it: imports, weights, kernels."""
    segmenter = segmenter or FfnSegmenter(run.model_path, parameters_of(run))  # the process keeps it
    image, _, _ = read(run, grid_of(run).get(unit).read)
    little = np.resize(image, [4 * radius + 1 for radius in segmenter.radius_zyx])
    segmenter(little, Masks())


def _sample(run: Run, unit: str, segmenter: Segmenter | None, at_once: int) -> Sample:
    mark, fresh = run.cell("segment").run_unit(unit, partial(segment.compute, run, unit, segmenter=segmenter))
    figures = mark.figures
    subvolume = grid_of(run).get(unit)
    return Sample(
        unit=unit,
        voxels=subvolume.read.voxels,
        seconds=max(mark.seconds, 1e-4) / at_once,  # marks are rounded to that
        overhead_s=max(0.0, mark.seconds - figures["network_seconds"] - figures["host_seconds"]) / at_once,
        label_bytes=local_path(run, subvolume).stat().st_size,
        fresh=fresh,
    )


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Limits of the mean of log-normal `values` (all positive, two or more) at `CONFIDENCE`."""
    from scipy.stats import t as student

    n = len(values)
    logs = [math.log(v) for v in values]
    variance = stdev(logs) ** 2
    centre = fmean(logs) + variance / 2
    half = float(student.ppf((1 + CONFIDENCE) / 2, n - 1)) * math.sqrt(
        variance / n + variance**2 / (2 * (n - 1))
    )
    return _exp(centre - half), _exp(centre + half)


def _exp(x: float) -> float:
    """exp, at most 1e300: two very different samples say nothing, in a number that JSON can hold."""
    return math.exp(min(max(x, -690.0), 690.0))
