"""One lens for a camera, and its shading, from all sections that were stitched with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from functions.microscopes.common import identifier
from functions.model.errors import UpstreamError
from functions.model.lens import Lens
from functions.model.shading import ShadingDocument
from functions.model.transform import SectionLayout, Sheet, SheetDocument
from functions.registration.lens import MAX_WEIGHT, mean_lens
from functions.registration.shading import believed, joined
from functions.store.lens import check_lens
from functions.store.run import Run
from functions.store.transforms import load_layout


def camera_lens(run: Run, *, earlier: Lens | None = None, camera: str | None = None) -> Lens:
    """The lens of a run's stitched sections: their robust mean, and with it an earlier one, by weight.

    Sections count by their registered overlaps. Where tiles have several shapes, that of most sections is
    taken.

    Args:
        camera: name of the camera; by default the earlier lens's, or the instrument's.

    Raises:
        UpstreamError: no section with overlaps is stitched.
        TaskError: the earlier lens is of tiles of another shape or pixel size.
    """
    layouts = _layouts(run)
    shapes = Counter(_shape(layout) for layout in layouts)
    if not shapes:
        raise UpstreamError(
            "no stitched section shows a lens", remedy="run the step stitch on sections whose tiles overlap"
        )
    shape = max(sorted(shapes), key=lambda s: shapes[s])
    taken = [layout for layout in layouts if _shape(layout) == shape]
    sheets = [layout.lens.sheet for layout in taken if layout.lens is not None]
    weights = [float(_overlaps(layout)) for layout in taken]
    sheet, kept = mean_lens(sheets, weights)
    acquisition = run.manifest.acquisition
    found = Lens(
        camera=camera or (earlier.camera if earlier is not None else identifier(acquisition.instrument)),
        tile_shape_yx=shape,
        pixel_size_nm=acquisition.voxel_size_zyx_nm[1],
        sheet=SheetDocument.of(sheet),
        sections=int(kept.sum()),
        tiles=sum(len(layout.tiles) for layout, good in zip(taken, kept, strict=True) if good),
        weight=min(MAX_WEIGHT, float(np.array(weights)[kept].sum())),
        shading=_shading([layout.shading for layout, good in zip(taken, kept, strict=True) if good]),
    )
    return found if earlier is None else _joined(earlier, found)


def brightness_range(lens: Lens) -> tuple[float, float] | None:
    """Lowest and highest brightness against the mean that tiles are freed of; None where no shading is
    certain."""
    if lens.shading is None:
        return None
    shading = believed(lens.shading.shading, lens.tile_shape_yx)
    return None if shading is None else shading.extremes(lens.tile_shape_yx)


def _joined(earlier: Lens, found: Lens) -> Lens:
    """The mean of two lenses of a camera, by their weights."""
    check_lens(
        earlier, shape_yx=found.tile_shape_yx, pixel_size_nm=found.pixel_size_nm, subject="the earlier lens"
    )
    total = earlier.weight + found.weight
    a, b = earlier.sheet.sheet, found.sheet.sheet
    mean = (earlier.weight * a.coefficients + found.weight * b.coefficients) / total
    return found.model_copy(
        update={
            "sheet": SheetDocument.of(Sheet(spacing_px=b.spacing_px, coefficients=mean)),
            "sections": earlier.sections + found.sections,
            "tiles": earlier.tiles + found.tiles,
            "weight": min(MAX_WEIGHT, total),
            "shading": _shading([earlier.shading, found.shading]),
        }
    )


def _shading(documents: Sequence[ShadingDocument | None]) -> ShadingDocument | None:
    """What several say of the camera's shading together."""
    whole = joined([None if d is None else d.shading for d in documents])
    return None if whole is None else ShadingDocument.of(whole)


def _layouts(run: Run) -> list[SectionLayout]:
    """The layouts of the sections that are stitched and show a lens."""
    ids = [
        s.section.id for s in run.sections if run.cell("stitch", s.section.id).file("layout.json").is_file()
    ]
    layouts = [load_layout(run, section_id) for section_id in ids]
    return [layout for layout in layouts if layout.lens is not None]


def _shape(layout: SectionLayout) -> tuple[int, int]:
    shapes = [tile.shape_yx for tile in layout.tiles]
    return max(y for y, _ in shapes), max(x for _, x in shapes)


def _overlaps(layout: SectionLayout) -> int:
    return sum(seam.verdict in ("ok", "look") for seam in layout.seams)
