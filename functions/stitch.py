"""Stitch one section: measure overlaps, solve where the tiles lie, blend them into one image.

A unit is a section. Its cell gets image.zarr and mask.zarr (1, Y, X), artefacts.npz and layout.json. Nothing
in a section is fatal: tiles whose overlaps cannot be registered stay where the stage says, and are reported.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from functions.budget import tile_cache_bytes
from functions.model.artefacts import NAMES
from functions.model.errors import AcquisitionError
from functions.model.geometry import Box
from functions.model.shading import ShadingDocument
from functions.model.stage import tile_linear
from functions.model.transform import ContrastMap, Seam, SectionLayout, Sheet, SheetDocument, TileTransform
from functions.registration.artefacts import Codes, classify, summarise
from functions.registration.blend import PlacedTile, blend
from functions.registration.contrast import histogram, moments
from functions.registration.masks import CELL_PX, black_margin, reduce_mean
from functions.registration.measure import Measured, measure_tiles
from functions.registration.mosaic import Mosaic, solve_tiles
from functions.registration.shading import believed, usual_shape
from functions.registration.views import Reader
from functions.stages import Stages, device_of
from functions.store.artefacts import save_artefacts
from functions.store.cells import UnitReport
from functions.store.drawing import layout_reader, save_usable, tile_reader
from functions.store.files import write_json
from functions.store.lens import lens_prior
from functions.store.run import IngestedSection, Run
from functions.store.tiles import TileReader
from functions.store.transforms import CHUNK_PX, KINDS, section_volume
from functions.store.volumes import Volume

Floats = NDArray[np.float64]


def units(run: Run) -> list[str]:
    """Ids of the usable sections."""
    return [s.section.id for s in run.sections]


def compute(run: Run, unit: str) -> UnitReport:
    """Stitch the section named `unit`.

    Raises:
        AcquisitionError: a tile that ingest accepted cannot be read any more, or an aligned stack has
        sections of
            several tiles.
        TaskError: `stitch.device` is not there, or `stitch.lens` is missing, damaged or of another camera.
    """
    entry = next(s for s in run.sections if s.section.id == unit)
    kept = tile_cache_bytes(run)
    reader = tile_reader(run, entry, cache_bytes=kept)
    if run.manifest.acquisition.aligned:
        layout, codes = _copy(run, entry, reader)
        return _report(layout, codes)
    lens = lens_prior(run, entry)
    if lens is not None:
        usual = usual_shape([tile.shape_yx for tile in entry.section.tiles])
        reader = tile_reader(run, entry, flat=believed(lens.shading, usual), cache_bytes=kept)
    stages, uncertainty_px = Stages(), run.manifest.acquisition.stage_uncertainty_px
    read = stages.timed("read", reader.image)
    with stages.stage("correlation"):
        measured = _measure(run, entry, read)
    with stages.stage("solve"):
        mosaic = solve_tiles(measured, run.parameters.stitch, uncertainty_px=uncertainty_px, lens=lens)
    layout = _layout(entry, mosaic)
    if mosaic.refined:
        read = stages.timed("read", layout_reader(run, entry, layout, cache_bytes=kept).image)
    with stages.stage("render"):
        codes = _draw(run, layout, mosaic, read)
    save_usable(run, layout, [tile.usable for tile in mosaic.tiles])
    write_json(run.cell("stitch", unit).file("layout.json"), layout.to_json(), indent=None)
    report = _report(layout, codes)
    return report.model_copy(update={"figures": report.figures | stages.figures})


def _measure(run: Run, entry: IngestedSection, read: Reader) -> Measured:
    """Register the overlaps of a section."""
    parameters, acquisition = run.parameters.stitch, run.manifest.acquisition
    nm = acquisition.voxel_size_zyx_nm
    stage = np.array([tile.stage_yx_nm for tile in entry.section.tiles], dtype=np.float64) / np.array(nm[1:])
    return measure_tiles(
        stage,
        read,
        parameters,
        uncertainty_px=acquisition.stage_uncertainty_px,
        linear=[tile_linear(tile, (nm[1], nm[2])) for tile in entry.section.tiles],
        device=device_of(parameters.device, group="stitch"),
    )


def _layout(entry: IngestedSection, mosaic: Mosaic) -> SectionLayout:
    """The document of a solved section."""
    names = [tile.id for tile in entry.section.tiles]
    seams = tuple(
        Seam(
            a=names[s.pair[0]],
            b=names[s.pair[1]],
            verdict=s.verdict,
            residual_px=s.residual_px,
            residual_px_p95=s.residual_px_p95,
            matches=s.matches,
            confidence=s.confidence,
            measured_share=s.measured_share,
            centre_yx=s.centre_yx,
        )
        for s in mosaic.seams
    )
    return SectionLayout(
        section=entry.section.id,
        shape_yx=mosaic.shape_yx,
        tiles=tuple(
            _tile(name, tile, gain, None if held else mosaic.stage_uncertainty_px)
            for name, tile, gain, held in zip(names, mosaic.tiles, mosaic.gains, mosaic.held, strict=True)
        ),
        seams=seams,
        residual_px_p95=mosaic.residual_px_p95,
        stage_origin_yx_px=mosaic.origin_yx_px,
        contrast=mosaic.contrast,
        lens=None if mosaic.lens is None else SheetDocument.of(mosaic.lens),
        shading=None if mosaic.shading is None else ShadingDocument.of(mosaic.shading),
        flat=None if mosaic.flat is None else ShadingDocument.of(mosaic.flat),
    )


def _tile(name: str, tile: PlacedTile, gain: Floats, uncertainty_px: float | None) -> TileTransform:
    y, x = (tuple(round(float(v), 9) for v in row) for row in tile.warp.affine)
    return TileTransform(
        tile_id=name,
        shape_yx=tile.shape_yx,
        affine=((y[0], y[1], y[2]), (x[0], x[1], x[2])),
        sheet=SheetDocument.of(tile.warp.sheet) if isinstance(tile.warp.sheet, Sheet) else None,
        gain=round(float(gain[0]), 6),
        offset=round(float(gain[1]), 4),
        lead_px=tile.lead_px,
        placed="matched" if uncertainty_px is None else "stage",
        uncertainty_px=uncertainty_px,
    )


def _draw(run: Run, layout: SectionLayout, mosaic: Mosaic, read: Reader) -> Codes:
    """Write image and mask, strip by strip, and the artefacts; what is drawn is what the layout says."""
    image = Volume.create(run.work, section_volume(run, layout.section, "image", layout.shape_yx))
    mask = Volume.create(run.work, section_volume(run, layout.section, "mask", layout.shape_yx))
    tiles = [replace(p, warp=t.warp) for t, p in zip(layout.tiles, mosaic.tiles, strict=True)]
    summaries = []
    for top, gray, covered in blend(tiles, read, shape_yx=layout.shape_yx, strip_px=CHUNK_PX):
        box = Box(offset_zyx=(0, top, 0), shape_zyx=(1, *gray.shape))
        image.write(box, gray[None])
        mask.write(box, covered[None])
        summaries.append(summarise(gray, covered > 0))
    codes = classify(summaries)
    save_artefacts(run, layout.section, codes)
    return codes


def _copy(run: Run, entry: IngestedSection, reader: TileReader) -> tuple[SectionLayout, Codes]:
    """A section of an aligned stack: its pixels as they are; black outside is masked.

    Raises:
        AcquisitionError: the section has several tiles.
    """
    if len(entry.section.tiles) != 1:
        raise AcquisitionError(
            f"sections[{entry.section.id}].tiles: {len(entry.section.tiles)} tiles in an aligned stack",
            remedy="give one image a section, or set aligned to false",
        )
    pixels = reader.image(0)
    shape = (int(pixels.shape[0]), int(pixels.shape[1]))
    used = ~black_margin(pixels)
    image, mask = (
        Volume.create(run.work, section_volume(run, entry.section.id, name, shape)) for name in KINDS
    )
    summaries, usable, counts = [], [], np.zeros(256, np.int64)
    for top in range(0, shape[0], CHUNK_PX):
        gray, covered = pixels[top : top + CHUNK_PX], used[top : top + CHUNK_PX]
        box = Box(offset_zyx=(0, top, 0), shape_zyx=(1, *gray.shape))
        image.write(box, gray[None])
        mask.write(box, covered.astype(np.uint8)[None])
        summaries.append(summarise(gray, covered))
        usable.append(reduce_mean(covered, CELL_PX) > 0)
        counts += histogram(gray, covered)
    codes = classify(summaries)
    save_artefacts(run, entry.section.id, codes)
    mean, std = moments(counts)
    identity = TileTransform(
        tile_id=entry.section.tiles[0].id, shape_yx=shape, affine=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    )
    layout = SectionLayout(
        section=entry.section.id,
        shape_yx=shape,
        tiles=(identity,),
        contrast=ContrastMap(
            mean=round(mean, 4),
            std=round(std, 4),
        ),
        exact_copy=True,
    )
    save_usable(run, layout, [np.concatenate(usable)])
    write_json(run.cell("stitch", entry.section.id).file("layout.json"), layout.to_json(), indent=None)
    return layout, codes


def _report(layout: SectionLayout, codes: Codes) -> UnitReport:
    """Figures, and a problem for each tile and seam that a person should look at."""
    problems = [
        {
            "code": "tile_unmatched",
            "subject": f"{layout.section}: tile {t.tile_id} lies by stage, good to {t.uncertainty_px} px",
            "remedy": "look at the tile; raise stage_uncertainty_px if the stage is less exact than stated",
        }
        for t in layout.tiles
        if t.placed == "stage"
    ]
    problems += [
        {
            "code": f"seam_{s.verdict}",
            "subject": f"{layout.section}: seam {s.a} / {s.b}: residual p95 {s.residual_px_p95} px",
            "remedy": "look at the seam in the report",
        }
        for s in layout.seams
        if s.verdict in ("look", "rejected")
    ]
    if not layout.exact_copy and layout.contrast.std < 1.0:
        problems.append(
            {
                "code": "no_texture",
                "subject": f"{layout.section}: nothing but empty or saturated pixels",
                "remedy": "leave the section out (--sections) or acquire it again",
            }
        )
    kept = sum(s.verdict in ("ok", "look") for s in layout.seams)
    figures = {
        "tiles": float(len(layout.tiles)),
        "tiles_by_stage": float(sum(t.placed == "stage" for t in layout.tiles)),
        "pairs_kept": float(kept),
        "pairs_rejected": float(sum(s.verdict == "rejected" for s in layout.seams)),
        "pairs_unmatched": float(sum(s.verdict == "unmatched" for s in layout.seams)),
    }
    covered = max(1, int(np.count_nonzero(codes)))
    for code, name in enumerate(NAMES[2:], start=2):
        figures[f"{name}_fraction"] = round(int((codes == code).sum()) / covered, 4)
    if layout.residual_px_p95 is not None:
        figures["seam_residual_px_p95"] = layout.residual_px_p95
    return UnitReport(status="look" if problems else "ok", figures=figures, problems=tuple(problems))
