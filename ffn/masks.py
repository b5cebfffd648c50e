"""Where one subvolume may be flooded: three permissions, and how tissue, resin and artefacts give them.

| voxel is               | seed | centre of a move | label |
|------------------------|------|------------------|-------|
| outside the tissue     |  no  |        no        |  no   |
| resin                  |  no  |        no        |  no   |
| artefact (fold, stain) |  no  |        no        |  yes  |

An artefact is tissue that cannot be trusted: nothing starts or is decided there, but an object is labelled
as far as it is seen from centres beside the artefact, since a field of view is wider than most of them.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ffn.config import Triple

Mask = NDArray[np.bool_]


class MaskError(ValueError):
    """A mask does not fit the image; the message names it and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Masks:
    """Where objects may start (`seeds`), centres may go (`moves`) and voxels be labelled (`labels`).

    Each bool (Z, Y, X), True = allowed; None = everywhere. A seed is also a centre: it needs both.
    """

    seeds: Mask | None = None
    moves: Mask | None = None
    labels: Mask | None = None

    @classmethod
    def of(cls, mask: "Masks | Mask | None") -> "Masks":
        """One mask for everything (True = tissue), or masks as they are."""
        if isinstance(mask, Masks):
            return mask
        return cls(seeds=mask, moves=mask, labels=mask)

    @classmethod
    def combine(
        cls, *, tissue: Mask | None = None, resin: Mask | None = None, artefact: Mask | None = None
    ) -> "Masks":
        """The permissions of the table above. True = is tissue, is resin, is artefact."""
        labels = _and(tissue, None if resin is None else ~resin)
        centres = _and(labels, None if artefact is None else ~artefact)
        return cls(seeds=centres, moves=centres, labels=labels)

    def check(self, shape_zyx: Triple) -> None:
        """Raises MaskError unless every mask is bool and of this shape."""
        for name in ("seeds", "moves", "labels"):
            mask: Mask | None = getattr(self, name)
            if mask is not None and (mask.shape != shape_zyx or mask.dtype != np.bool_):
                raise MaskError(
                    f"mask: expected bool {shape_zyx}, found {mask.dtype} {mask.shape} for {name}; "
                    "crop it with the image"
                )

    @property
    def starts(self) -> Mask | None:
        """Where an object may start: allowed as a seed and as a centre."""
        return self.seeds if self.seeds is self.moves else _and(self.seeds, self.moves)


def _and(one: Mask | None, other: Mask | None) -> Mask | None:
    if one is None or other is None:
        return other if one is None else one
    if one.shape != other.shape:
        raise MaskError(f"mask: shapes {one.shape} and {other.shape} differ; crop all masks with the image")
    both: Mask = one & other
    return both
