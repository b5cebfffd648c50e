"""What agglomeration costs: pairs of objects, the moves that flood them again, hours of accelerators.

    pairs of a voxel * moves of a pair * voxels of a move / rate

A move is a field of view that goes through the network, in segment as in resegment: the rate of the one says
how many an accelerator makes in an hour. Pairs take fewer at once, so that their batches may be less full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from functions.model.geometry import find_box
from functions.model.quantities import Figure

if TYPE_CHECKING:
    from functions.store.run import Run

FIB25_VOXELS = 173 * 250 * 250
FIB25 = "FIB-25 at 10 nm, 173 x 250 x 250 voxels"
ASSUMED = {
    "pairs_per_voxel": f"assumed: 181 by the default limits of candidates on {FIB25}",
    "objects_per_voxel": f"assumed: 296 on {FIB25}",
    "moves_per_pair": f"assumed: 6,009 moves of 181 pairs on {FIB25}",
    "voxels_per_move": f"assumed: 13,900 moves of segment.mode=fast on {FIB25}",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairing:
    """How many pairs there are and what one costs; `sources` says by whom each figure is told."""

    pairs_per_voxel: float = 181 / FIB25_VOXELS
    objects_per_voxel: float = 296 / FIB25_VOXELS
    moves_per_pair: float = 6_009 / 181
    voxels_per_move: float = FIB25_VOXELS / 13_900
    """That segment settles, overlaps counted again."""
    sources: Mapping[str, str] = field(default_factory=lambda: dict(ASSUMED))

    def figures(self, voxels: float, rate: float) -> tuple[Figure, ...]:
        """Pairs, moves and hours of a volume, at `rate` voxels of segment per GPU and hour."""
        pairs = voxels * self.pairs_per_voxel
        moves = pairs * self.moves_per_pair
        told = self.sources
        return (
            Figure(
                name="pairs",
                value=pairs,
                unit="pairs",
                formula=f"voxels * {self.pairs_per_voxel:.3g} ({told['pairs_per_voxel']})",
            ),
            Figure(
                name="moves_of_pairs",
                value=moves,
                unit="moves",
                formula=f"pairs * {self.moves_per_pair:.4g} ({told['moves_per_pair']})",
            ),
            Figure(
                name="gpu_hours_of_pairs",
                value=moves * self.voxels_per_move / rate,
                unit="GPU-h",
                formula=f"moves * {self.voxels_per_move:.4g} voxels of a move ({told['voxels_per_move']})"
                f" / ({rate:.3g} voxels per GPU-hour)",
            ),
        )


def measured(run: Run) -> Pairing:
    """What the marks of a run tell, of as many subvolumes, blocks and batches as are done; the rest assumed.

    Raises:
        PetavoxelError: a mark is damaged, or the run has no aligned volume.
    """
    values: dict[str, float] = {}
    sources = dict(ASSUMED)
    flooded = [m.figures for m in run.cell("segment").marks() if m.figures.get("fovs")]
    if flooded:
        values["voxels_per_move"] = sum(f["voxels"] for f in flooded) / sum(f["fovs"] for f in flooded)
        sources["voxels_per_move"] = f"measured: {len(flooded)} subvolumes of the run"
    blocks = run.cell("candidates").marks() if run.agglomerates else []
    if blocks:
        shape, size = run.aligned.volume.shape_zyx, run.parameters.candidates.block_zyx_px
        voxels = sum(find_box(block.unit, shape, size).voxels for block in blocks)
        for name, figure in (("pairs_per_voxel", "candidates"), ("objects_per_voxel", "objects")):
            values[name] = sum(block.figures[figure] for block in blocks) / voxels
            sources[name] = f"measured: {len(blocks)} blocks of the run"
    batches = [m.figures for m in run.cell("resegment").marks()] if blocks else []
    pairs = sum(f["pairs"] for f in batches)
    if pairs:
        values["moves_per_pair"] = sum(f["fovs"] for f in batches) / pairs
        sources["moves_per_pair"] = f"measured: {pairs:.0f} pairs of the run"
    return Pairing(**values, sources=sources)
