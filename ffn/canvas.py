"""The state of one subvolume while it is flooded: the belief about the current object, and the labels so far.

    belief   float32 (Z, Y, X)  logits of the current object; NaN = not seen yet
    labels   int32   (Z, Y, X)  0 = none, n = object n, -1 = a seed that failed here

Only the box that the current object touched is ever cleared or searched.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffn.config import InferenceConfig, Triple, logit
from ffn.masks import Masks

FAILED_SEED = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Thresholds:
    """The logits of an InferenceConfig's probabilities, in float32 like the canvas."""

    init: float
    pad: float
    move: float
    segment: float
    disco: float | None

    @classmethod
    def of(cls, config: InferenceConfig) -> "Thresholds":
        def as_logit(probability: float) -> float:
            return float(np.float32(logit(float(np.float32(probability)))))

        return cls(
            init=as_logit(config.init_activation),
            pad=as_logit(config.pad_value),
            move=as_logit(config.move_threshold),
            segment=as_logit(config.segment_threshold),
            disco=config.disco_seed_threshold,
        )


class Canvas:
    """Belief and labels of one subvolume.

    `allowed` restricts seeds, centres and labels: all by one array (bool, Z, Y, X), or each by its own.
    """

    def __init__(
        self,
        image: NDArray[np.generic],
        *,
        fov_zyx: Triple,
        thresholds: Thresholds,
        allowed: Masks | NDArray[np.bool_] | None = None,
        keep_probabilities: bool = False,
    ) -> None:
        self.image = image
        self.shape_zyx: Triple = (image.shape[0], image.shape[1], image.shape[2])
        self.fov_zyx = fov_zyx
        self.margin_zyx: Triple = (fov_zyx[0] // 2, fov_zyx[1] // 2, fov_zyx[2] // 2)
        self.thresholds = thresholds
        self.masks = Masks.of(allowed)
        self._starts = self.masks.starts
        self.belief = np.full(self.shape_zyx, np.nan, np.float32)
        self.labels = np.zeros(self.shape_zyx, np.int32)
        self.probabilities = np.zeros(self.shape_zyx, np.uint8) if keep_probabilities else None
        self._touched: list[slice] | None = None

    def begin(self, seed_zyx: Triple) -> None:
        """Forgets the last object's belief and sets the seed voxel to the initial activation."""
        if self._touched is not None:
            self.belief[tuple(self._touched)] = np.nan
        self.belief[seed_zyx] = self.thresholds.init
        self._touched = [slice(p, p + 1) for p in seed_zyx]

    def has_context(self, position: Triple) -> bool:
        """Whether the whole field of view around `position` lies in the subvolume."""
        (z, y, x), (mz, my, mx), (nz, ny, nx) = position, self.margin_zyx, self.shape_zyx
        return mz <= z < nz - mz and my <= y < ny - my and mx <= x < nx - mx

    def may_start(self, position: Triple) -> bool:
        """Whether an object may be started here."""
        return self._is_free(position) and (self._starts is None or bool(self._starts[position]))

    def may_move(self, position: Triple) -> bool:
        """Whether the current object may move its field of view here. Unseen (NaN) voxels are no obstacle."""
        return not self.belief[position] < self.thresholds.move and self.is_open(position)

    def is_open(self, position: Triple) -> bool:
        """Whether a field of view may be centred here, whatever is believed: inside, free and allowed."""
        return self._is_free(position) and (self.masks.moves is None or bool(self.masks.moves[position]))

    def find_closed(self) -> NDArray[np.bool_]:
        """Where no field of view may ever be centred (Z, Y, X): in the rim, or outside the mask."""
        closed = np.ones(self.shape_zyx, np.bool_)
        inside = tuple(slice(m, n - m) for m, n in zip(self.margin_zyx, self.shape_zyx, strict=True))
        if all(part.start < part.stop for part in inside):
            closed[inside] = False if self.masks.moves is None else ~self.masks.moves[inside]
        return closed

    def touches_object(self, position: Triple, *, distance_zyx: Triple) -> bool:
        """Whether a labelled voxel lies in the cube of `distance_zyx` around `position`."""
        cube = tuple(slice(max(p - d, 0), p + d + 1) for p, d in zip(position, distance_zyx, strict=True))
        return bool((self.labels[cube] > 0).any())

    def holds(self, seed_zyx: Triple) -> bool:
        """Whether the current object still believes in its own seed."""
        return bool(self.belief[seed_zyx] >= self.thresholds.move)

    def gather(self, position: Triple) -> tuple[NDArray[np.generic], NDArray[np.float32]]:
        """Image (a view) and belief (a copy, unseen = pad) of the field of view, both of its shape."""
        fov = self._fov(position)
        belief = self.belief[fov].copy()
        belief[np.isnan(belief)] = self.thresholds.pad
        return self.image[fov], belief

    def scatter(self, position: Triple, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Writes the network's answer (Z, Y, X) for the field of view; returns what was written.

        The disco rule of google/ffn biases towards splits: where the answer holds any object at all, a
        voxel once found outside (old logit < 0) may not rise again. Comparing with NaN (unseen) is False.
        """
        fov = self._fov(position)
        old = self.belief[fov]
        disco = self.thresholds.disco
        if disco is not None and (logits >= self.thresholds.move).mean() > disco:
            logits = np.where((old < 0) & (logits > old), old, logits)
        self.belief[fov] = logits
        self._grow(fov)
        return logits

    def fail(self, seed_zyx: Triple) -> None:
        """Remembers that a seed came to nothing."""
        if self.labels[seed_zyx] == 0:
            self.labels[seed_zyx] = FAILED_SEED

    def commit(self, label: int, *, min_size: int) -> int:
        """Labels the current object where nothing is labelled yet.

        Returns the number of voxels labelled; 0 if that were fewer than `min_size`, and then labels none.
        """
        box = tuple(self._touched or ())
        belief, labels = self.belief[box], self.labels[box]
        mask = (belief >= self.thresholds.segment) & (labels <= 0)
        if self.masks.labels is not None:
            mask &= self.masks.labels[box]
        size = int(np.count_nonzero(mask))
        if size < max(min_size, 1):
            return 0
        labels[mask] = label
        if self.probabilities is not None:
            self.probabilities[box][mask] = quantise_probability(belief[mask])
        return size

    def hold(self) -> tuple[Triple, NDArray[np.float32]]:
        """Corner and content (a copy) of the box that the current object touched, for `take_up`."""
        touched = self._touched or [slice(0, 0)] * 3
        z, y, x = (s.start for s in touched)
        return (z, y, x), self.belief[tuple(touched)].copy()

    def take_up(self, corner_zyx: Triple, belief: NDArray[np.float32]) -> None:
        """Goes on with an object that was put away by `hold`, in place of the current one."""
        if self._touched is not None:
            self.belief[tuple(self._touched)] = np.nan
        self._touched = [slice(c, c + n) for c, n in zip(corner_zyx, belief.shape, strict=True)]
        self.belief[tuple(self._touched)] = belief

    def _is_free(self, position: Triple) -> bool:
        return self.has_context(position) and not self.labels[position] > 0

    def _fov(self, position: Triple) -> tuple[slice, slice, slice]:
        z, y, x = (
            slice(p - m, p - m + n) for p, m, n in zip(position, self.margin_zyx, self.fov_zyx, strict=True)
        )
        return z, y, x

    def _grow(self, fov: tuple[slice, slice, slice]) -> None:
        box = self._touched or list(fov)
        self._touched = [
            slice(min(a.start, b.start), max(a.stop, b.stop)) for a, b in zip(box, fov, strict=True)
        ]


def quantise_probability(logits: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Logits to probabilities in 254 equal steps, 1..255 as google/ffn keeps them; 0 means "no object"."""
    probability = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
    quantised: NDArray[np.uint8] = np.minimum(np.floor(probability * 254) + 1, 255).astype(np.uint8)
    return quantised
