"""The examples of a training batch, each with the moves that the network makes through it.

Slot i of a global batch of n holds the examples i, i + n, i + 2n, ... one after the other. Nothing in it
depends on the other slots or on the process that holds it, so N processes see what one would see.

Shape letters: B batch, Z Y X field of view.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple, logit
from ffn.examples import Example, ExampleSource
from ffn.recipe import TrainingRecipe


class Slot:
    """One example in the batch: its logits so far and the moves still to be tried."""

    def __init__(self, number: int, example: Example, recipe: TrainingRecipe) -> None:
        self.number, self.example = number, example
        config = recipe.inference
        self.logits = np.full(example.image.shape, logit(config.pad_value), np.float32)
        self.logits[tuple(n // 2 for n in example.image.shape)] = logit(config.init_activation)
        self.moves = training_moves(recipe, number)
        self.next_move = 0
        self._fov, self._threshold = recipe.network.fov_zyx, logit(config.move_threshold)

    def advance(self) -> bool:
        """Goes to the next move whose voxel the network believes in; False when none is left."""
        while self.next_move < len(self.moves):
            self.next_move += 1
            if self.next_move == 1 or self.logits[self._centre()] >= self._threshold:
                return True
        return False

    @property
    def where(self) -> tuple[slice, ...]:
        """The field of view of the current move."""
        corner = (c - f // 2 for c, f in zip(self._centre(), self._fov, strict=True))
        return tuple(slice(c, c + f) for c, f in zip(corner, self._fov, strict=True))

    def _centre(self) -> Triple:
        z, y, x = self.moves[self.next_move - 1]
        depth, height, width = self.example.image.shape
        return depth // 2 + z, height // 2 + y, width // 2 + x


class Slots:
    """The slots of a batch that one process holds: `rank`, `rank + size`, ... of the global batch."""

    def __init__(self, recipe: TrainingRecipe, source: ExampleSource, *, rank: int, size: int) -> None:
        self._recipe, self._source = recipe, source
        self.indices = range(rank, recipe.optimiser.batch, size)
        self.held = {i: self.fresh(i) for i in self.indices}

    def fresh(self, number: int) -> Slot:
        """A slot at the start of example `number`."""
        return Slot(number, self._source[number], self._recipe)

    def advance(self) -> None:
        """Every slot goes to its next field of view, in its next example when there is none left."""
        for i, slot in self.held.items():
            if not slot.advance():
                self.held[i] = self.fresh(slot.number + self._recipe.optimiser.batch)
                self.held[i].advance()

    def batch(self) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_] | None]:
        """Network input (B, 2, Z, Y, X), target (B, Z, Y, X) and, unless all is known, what is known."""
        slots = self.held.values()
        seen = np.stack([np.stack([s.example.image[s.where], s.logits[s.where]]) for s in slots])
        target = np.stack([s.example.target[s.where] for s in slots])
        if all(s.example.known is None for s in slots):
            return seen, target, None
        known = np.ones_like(target)
        for part, slot in zip(known, slots, strict=True):
            if slot.example.known is not None:
                part[:] = slot.example.known[slot.where]
        return seen, target, known

    def write_back(self, logits: NDArray[np.float32]) -> None:
        """The network's answers (B, Z, Y, X) become the logits so far."""
        for slot, answer in zip(self.held.values(), logits, strict=True):
            slot.logits[slot.where] = answer

    def examples_begun(self) -> int:
        """Examples that these slots have begun since the start of the training."""
        batch = self._recipe.optimiser.batch
        return sum(slot.number // batch + 1 for slot in self.held.values())

    def progress(self) -> dict[int, tuple[int, int]]:
        """Per slot its example and the next move, from which `restore` goes on."""
        return {i: (slot.number, slot.next_move) for i, slot in self.held.items()}

    def restore(
        self, progress: Mapping[int, tuple[int, int]], logits: Mapping[int, NDArray[np.float32]]
    ) -> None:
        """Goes back to a saved `progress` with the logits of each slot, raveled."""
        for i in self.indices:
            number, next_move = progress[i]
            slot = self.fresh(number)
            slot.logits, slot.next_move = logits[i].reshape(slot.logits.shape).copy(), next_move
            self.held[i] = slot


def training_moves(recipe: TrainingRecipe, number: int) -> list[Triple]:
    """The centre, then outward in random order the lattice of the deltas that fits the example."""
    reach = [(n - f) // 2 for n, f in zip(recipe.examples.shape_zyx, recipe.network.fov_zyx, strict=True)]
    per_axis = [
        range(-(r // d) * d, r + 1, d) if d > 0 else (0,)
        for r, d in zip(reach, recipe.network.deltas_zyx, strict=True)
    ]
    offsets: list[Triple] = [(z, y, x) for z in per_axis[0] for y in per_axis[1] for x in per_axis[2]]
    rng = np.random.default_rng([recipe.seed, 2, number])
    order = {o: float(rng.random()) for o in offsets}
    steps = [max(1, d) for d in recipe.network.deltas_zyx]
    return sorted(offsets, key=lambda o: (sum(abs(v) // s for v, s in zip(o, steps, strict=True)), order[o]))
