"""What it takes to draw a section of the volume from its raw tiles: where they lie, and what of them is used.

A stitched section's cell holds `usable.npz` beside its layout: for each tile, by its id, which cells of 8 x 8
px may be drawn (True). Stitching writes it, so that whoever asks for a tile's share need not look at pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from functions.model.chain import Chain
from functions.model.errors import VolumeError
from functions.model.shading import Shading
from functions.model.transform import SectionLayout, SectionTransform
from functions.registration.masks import Mask
from functions.registration.render import ChainedTile
from functions.store.run import IngestedSection, Run
from functions.store.tiles import CACHE_BYTES, TileReader
from functions.store.transforms import read_arrays, write_arrays

USABLE = "usable.npz"


def save_usable(run: Run, layout: SectionLayout, masks: Sequence[Mask]) -> None:
    """Keep which cells of each tile are drawn, in the order of the layout."""
    arrays = {tile.tile_id: mask for tile, mask in zip(layout.tiles, masks, strict=True)}
    write_arrays(run.cell("stitch", layout.section).file(USABLE), dict(arrays))


def load_usable(run: Run, layout: SectionLayout) -> list[Mask]:
    """Which cells of each tile are drawn, in the order of the layout.

    Raises:
        VolumeError: the file is damaged, or missing since an older version stitched the section.
    """
    cell = run.cell("stitch", layout.section)
    if not cell.file(USABLE).exists():
        raise VolumeError(
            f"{cell.file(USABLE)}: missing; an older version stitched this section",
            remedy=f"remove {cell.path}, then start the run at stitch",
        )
    arrays = read_arrays(cell.file(USABLE), *(tile.tile_id for tile in layout.tiles))
    return [array.astype(np.bool_) for array in arrays]


def tile_reader(
    run: Run, entry: IngestedSection, *, flat: Shading | None = None, cache_bytes: int = CACHE_BYTES
) -> TileReader:
    """Reads the tiles of a section, as ingest accepted them, less a shading."""
    return TileReader(
        run.acquisition_folder, entry.section, sha256=entry.sha256, flat=flat, cache_bytes=cache_bytes
    )


def layout_reader(
    run: Run, entry: IngestedSection, layout: SectionLayout, *, cache_bytes: int = CACHE_BYTES
) -> TileReader:
    """Reads the tiles of a stitched section as they are drawn."""
    flat = None if layout.flat is None else layout.flat.shading
    return tile_reader(run, entry, flat=flat, cache_bytes=cache_bytes)


def chained_tiles(
    layout: SectionLayout, transform: SectionTransform, usable: Sequence[Mask]
) -> list[ChainedTile]:
    """The tiles of a section as the volume sees them, with the grey values of the stitched section."""
    contrast = layout.contrast
    return [
        ChainedTile(
            chain=Chain(warps=(tile.warp, transform.warp)),
            shape_yx=tile.shape_yx,
            usable=mask,
            gain=contrast.gain * tile.gain,
            offset=contrast.gain * tile.offset + contrast.offset,
            lead_px=tile.lead_px,
        )
        for tile, mask in zip(layout.tiles, usable, strict=True)
    ]
