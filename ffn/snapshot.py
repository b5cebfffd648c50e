"""A subvolume in progress, as arrays: what `ffn.inference.segment` hands out and goes on from.

    snapshot.to_arrays() -> {name: array} -> a file of the caller's -> Snapshot.from_arrays(...)

Between two calls of the network everything is here: labels, seeds still to try, and of the object in progress
its belief, visited centres and queue. So what goes on ends as if it had never stopped. A snapshot
belongs to one image, mask, network and configuration on one kind of device, named by its fingerprint.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ffn.checkpoint import Model
from ffn.config import InferenceConfig, to_json
from ffn.masks import Masks
from ffn.segmentation import OUTCOMES, Attempt, InferenceError

Array = NDArray[Any]

FORMAT = "petavoxel.ffn-snapshot/1"
COUNTS = ("fill_round", "next_seed", "labelled_before", "calls", "seeds", "seeds_done", "skipped_moves")
SECONDS = ("seconds_network", "seconds_total")


class SnapshotError(InferenceError):
    """The snapshot is damaged or belongs to another subvolume; begin anew without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One subvolume in progress; see `to_arrays` for its lasting form.

    `labels` int32 (Z, Y, X), -1 = a failed seed; `probabilities` uint8 or None; `peaks` int32 (N, 3): seeds
    of the current fill round, of which `next_seed` is the next; `moves_zyx` int32 (fovs, 3), the last
    `object_moves` of them by the object in progress. `seed` int32 (0 or 1, 3) is that object's; its belief
    float32 fills the box at `corner`; `pending` int32 (P, 3) is its queue.
    """

    fingerprint: str
    labels: NDArray[np.int32]
    probabilities: NDArray[np.uint8] | None
    attempts: tuple[Attempt, ...]
    moves_zyx: NDArray[np.int32]
    peaks: NDArray[np.int32]
    fill_round: int
    next_seed: int
    labelled_before: int
    calls: int
    seeds: int
    seeds_done: int
    skipped_moves: int
    seconds_network: float
    seconds_total: float
    seed: NDArray[np.int32]
    corner: NDArray[np.int32]
    belief: NDArray[np.float32]
    pending: NDArray[np.int32]

    @property
    def object_moves(self) -> int:
        """Moves made by the object in progress: what the finished attempts do not account for."""
        return len(self.moves_zyx) - sum(attempt.moves for attempt in self.attempts)

    def to_arrays(self) -> dict[str, Array]:
        """Named arrays of plain numbers and text: nothing that needs pickling."""
        attempts = [
            (*a.seed_zyx, OUTCOMES.index(a.outcome), a.label, a.voxels, a.moves) for a in self.attempts
        ]
        arrays: dict[str, Array] = {
            "format": np.array(FORMAT),
            "fingerprint": np.array(self.fingerprint),
            "labels": self.labels,
            "attempts": np.array(attempts, np.int64).reshape(-1, 7),
            "moves_zyx": self.moves_zyx,
            "peaks": self.peaks,
            "counts": np.array([getattr(self, name) for name in COUNTS], np.int64),
            "seconds": np.array([getattr(self, name) for name in SECONDS], np.float64),
            "seed": self.seed,
            "corner": self.corner,
            "belief": self.belief,
            "pending": self.pending,
        }
        return arrays if self.probabilities is None else {**arrays, "probabilities": self.probabilities}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> "Snapshot":
        """The snapshot that `to_arrays` wrote, checked. Raises SnapshotError."""
        _require("format" in arrays and str(arrays["format"]) == FORMAT, f"format: not {FORMAT}")
        labels = _array(arrays, "labels", np.int32, (None, None, None))
        probabilities = None
        if "probabilities" in arrays:
            probabilities = _array(arrays, "probabilities", np.uint8, labels.shape)
        rows = _array(arrays, "attempts", np.int64, (None, 7))
        _require(bool(((rows[:, 3] >= 0) & (rows[:, 3] < len(OUTCOMES))).all()), "attempts: unknown outcome")
        counts = _array(arrays, "counts", np.int64, (len(COUNTS),)).tolist()
        seconds = _array(arrays, "seconds", np.float64, (len(SECONDS),)).tolist()
        _require("fingerprint" in arrays, "fingerprint: is missing")
        found = cls(
            fingerprint=str(arrays["fingerprint"]),
            labels=labels,
            probabilities=probabilities,
            attempts=tuple(_attempt(row) for row in rows.tolist()),
            moves_zyx=_positions(arrays, "moves_zyx", labels.shape),
            peaks=_positions(arrays, "peaks", labels.shape),
            seed=_positions(arrays, "seed", labels.shape),
            corner=_array(arrays, "corner", np.int32, (3,)),
            belief=_array(arrays, "belief", np.float32, (None, None, None)),
            pending=_positions(arrays, "pending", labels.shape),
            **dict(zip(COUNTS, counts, strict=True)),
            **dict(zip(SECONDS, seconds, strict=True)),
        )
        found.check()
        return found

    def check(self) -> None:
        """Raises SnapshotError unless its parts fit each other."""
        ends = self.corner + self.belief.shape
        _require(
            bool((self.corner >= 0).all() and (ends <= self.labels.shape).all()), "belief: leaves labels"
        )
        _require(0 <= self.next_seed <= len(self.peaks), "next_seed: outside peaks")
        _require(self.object_moves >= 0, "attempts: more moves than moves_zyx")
        _require(len(self.seed) <= 1, "seed: more than one object in progress")
        _require(len(self.seed) == 1 or self.object_moves == 0, "seed: missing for an object in progress")
        _require(min(getattr(self, name) for name in COUNTS) >= 0, "counts: negative")


def fingerprint(
    image: Array, *, model: Model, config: InferenceConfig, masks: Masks, engine: Mapping[str, str]
) -> str:
    """SHA-256 over all that decides the result: voxels, masks, weights, settings, and the kind of engine."""
    about = {
        "network": to_json(model.network.config),
        "normalisation": to_json(model.normalisation),
        "config": to_json(config),
        "engine": dict(engine),
        "image": [str(image.dtype), list(image.shape)],
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    digest.update(model.sha256.encode())
    digest.update(np.ascontiguousarray(image).data)
    for mask in (masks.seeds, masks.moves, masks.labels):
        digest.update(b"everywhere" if mask is None else np.packbits(mask).data)
    return digest.hexdigest()


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise SnapshotError(f"snapshot: {problem}; begin anew without it")


def _array(arrays: Mapping[str, Array], name: str, dtype: type, shape: tuple[int | None, ...]) -> Array:
    _require(name in arrays, f"{name}: is missing")
    array = arrays[name]
    fits = array.ndim == len(shape) and all(
        n == wanted or wanted is None for n, wanted in zip(array.shape, shape, strict=True)
    )
    _require(array.dtype == dtype and fits, f"{name}: unexpected {array.dtype} {array.shape}")
    return array


def _positions(arrays: Mapping[str, Array], name: str, extent: tuple[int, ...]) -> Array:
    positions = _array(arrays, name, np.int32, (None, 3))
    _require(bool(((positions >= 0) & (positions < extent)).all()), f"{name}: leaves the subvolume")
    return positions


def _attempt(row: list[int]) -> Attempt:
    z, y, x, outcome, label, voxels, moves = row
    return Attempt(seed_zyx=(z, y, x), outcome=OUTCOMES[outcome], label=label, voxels=voxels, moves=moves)
