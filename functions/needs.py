"""What the largest unit of each step takes in memory, from its geometry, before anything is started.

| step | its unit |
|---|---|
| ingest | a tile, decoded whole |
| stitch | a section, drawn in strips of 512 rows, tile by tile |
| align_pairs | two sections, in the smallest windows |
| align_solve | some numbers of all knots and matches |
| align_render | a section's row, in strips as stitch |
| segment | a subvolume |
| match | an overlap of two subvolumes |
| relabel | a chunk |
| candidates | a block, of which a few planes are grown at a time |
| resegment | one pair, in its cube |
| agglomerate | all objects at once |
| finish | one shard of the bundle |

Steps that can work in larger pieces do so where there is room (`functions.budget`). Bytes a voxel, pixel or
pair are measured, and rounded up: `tests/functions/test_budget.py` holds them to a factor of 2.5 above what
is taken, on a loaded machine, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod

from functions.model.errors import PetavoxelError
from functions.model.geometry import ZYX
from functions.model.parameters import Parameters
from functions.networks import fov_of
from functions.pair_memory import LEAST_PLANES, Reflooded, Searched, deciding_mib
from functions.registration.blend import BLOCK_PX
from functions.registration.evidence import LONGEST_PX
from functions.solve_memory import Solved
from functions.store.run import IngestedSection, Run
from functions.store.transforms import CHUNK_PX
from functions.tasks import StepName

MIB = 1 << 20
BASE_MIB = 300
"""Interpreter, numpy, zarr, scipy and torch for CPUs; measured 281."""
CACHE_SHARE = 0.25
"""Of the room, for tiles that are read again soon."""
LEAST_WINDOW_PX = 256
WINDOW_MIB, WINDOW_BYTES = 206, 88
"""Comparing two sections takes so much, and so many bytes for each pixel of a window. About 80 MiB of
the former are stacks of threads, and what malloc has free and cannot use: the limit counts them."""
RELABEL_MIB, PAINTED_BYTES, PIECE_BYTES = 16, 16, 8
"""Relabelling takes so much; for each voxel of the global labels, and of what a subvolume says about it."""
STITCH_MIB, TILE_BYTES, SECTION_BYTES, COPY_BYTES = 72, 16, 2, 6
"""Stitching takes so much; for each pixel of a tile; of a section; of one of an aligned stack."""
STRIP_BYTES, BLOCK_BYTES = 6, 48
"""For each pixel of a strip of 512 rows, and of the block of it that is drawn."""
COMPARE_MIB, SHOWN_BYTES = 48, 56
"""The gate's comparison of sections after solving takes so much, and for each pixel of those it reduced."""
FLOOD_MIB, FLOOD_BYTES = 48, 40
"""A subvolume while its seeds are found: canvas, distances, and the network's own work."""
MATCH_MIB, MATCH_BYTES = 14, 10
"""Comparing takes so much, and for each voxel of an overlap."""
FINISH_MIB, FINISH_BYTES = 100, 2.2
"""Writing a shard of labels takes so much, and for each of its bytes. Most of the former are stacks and
buffers of the threads that pack chunks, filled or not: the limit counts them (`functions.store.limits`)."""
LABEL_BYTES, MAPPING_BYTES = 4, 16
"""A label; and the object of an id, as it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """What decides how large units are. Without `tile_yx_px` nothing is said of tiles; `tile_bytes` are those
    of one of its pixels. Without `fov_zyx` nothing is said of pairs that are flooded again, without `objects`
    nothing of deciding on them. `mapped`: ids that belong to another object."""

    shape_zyx: ZYX
    parameters: Parameters
    aligned: bool = False
    tile_yx_px: tuple[int, int] | None = None
    tile_bytes: int = 1
    voxel_size_zyx_nm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    fov_zyx: ZYX | None = None
    objects: float | None = None
    mapped: int = 0

    @property
    def agglomerates(self) -> bool:
        """Whether pairs of objects are looked at again."""
        return bool(self.parameters.candidates.sources)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What the largest unit of a step takes besides `BASE_MIB`, for what, and what would make it smaller."""

    step: StepName
    mib: float
    of: str
    remedy: str

    @property
    def worker_gib(self) -> float:
        """Memory of a worker that suffices."""
        return (BASE_MIB + self.mib) / 1024


def needs(geometry: Geometry) -> list[Need]:
    """What each step takes at least, in the order of the flow."""
    found = [] if geometry.tile_yx_px is None else _of_tiles(geometry, geometry.tile_yx_px)
    pairs = _of_pairs(geometry) if geometry.agglomerates else []
    return [*found, *_of_sections(geometry), *_of_subvolumes(geometry), *pairs, _of_finish(geometry)]


def need_of(geometry: Geometry, step: str) -> Need | None:
    """What one step takes; None where nothing is told of it."""
    return next((need for need in needs(geometry) if need.step == step), None)


def geometry_of(run: Run) -> Geometry:
    """The geometry of a run, as far as its steps have found it out.

    Raises:
        PetavoxelError: ingest has not run, or the network cannot be read where pairs are flooded again.
    """
    acquisition = run.manifest.acquisition
    tiles = [tile.shape_yx for entry in run.sections for tile in entry.section.tiles]
    largest = max(tiles, key=prod, default=(1, 1))
    try:
        shape = run.aligned.volume.shape_zyx
    except PetavoxelError:  # not solved yet: the largest section that the stage describes
        nm = acquisition.voxel_size_zyx_nm[1:]
        extents = [_extent_px(entry, nm) for entry in run.sections]
        height, width = (max(extent) for extent in zip(*extents, strict=True))
        shape = (run.sections[-1].section.z - run.sections[0].section.z + 1, height, width)
    return Geometry(
        shape_zyx=shape,
        parameters=run.parameters,
        aligned=acquisition.aligned,
        tile_yx_px=largest,
        tile_bytes=2 if acquisition.dtype == "uint16" else 1,
        voxel_size_zyx_nm=acquisition.voxel_size_zyx_nm,
        fov_zyx=fov_of(run.model_path) if run.agglomerates else None,
    )


def _extent_px(entry: IngestedSection, pixel_yx_nm: tuple[float, float]) -> tuple[int, int]:
    """Height and width of a section where the stage put its tiles."""
    sides = []
    for axis, nm in enumerate(pixel_yx_nm):
        starts = [tile.stage_yx_nm[axis] / nm for tile in entry.section.tiles]
        ends = [s + t.shape_yx[axis] for s, t in zip(starts, entry.section.tiles, strict=True)]
        sides.append(ceil(max(ends) - min(starts)))
    return sides[0], sides[1]


def _strips_mib(shape_yx: tuple[int, int]) -> float:
    rows, width = min(CHUNK_PX, shape_yx[0]), shape_yx[1]
    return rows * (STRIP_BYTES * width + BLOCK_BYTES * min(width, BLOCK_PX)) / MIB


def _of_tiles(geometry: Geometry, tile_yx_px: tuple[int, int]) -> list[Need]:
    pixels, (_, height, width) = prod(tile_yx_px), geometry.shape_zyx
    tile = f"a tile of {tile_yx_px[0]} x {tile_yx_px[1]} px"
    section = f"a section of {height} x {width} px"
    remedy = "have the microscope write smaller tiles"
    strips = _strips_mib((height, width))
    if geometry.aligned:
        stitch = COPY_BYTES * height * width / MIB + strips / 4
        remedy = "write sections as several tiles"
    else:
        stitch = STITCH_MIB + (TILE_BYTES * pixels + SECTION_BYTES * height * width) / MIB + strips
        stitch /= 1 - CACHE_SHARE
    return [
        Need(step="ingest", mib=3 * geometry.tile_bytes * pixels / MIB, of=tile, remedy=remedy),
        Need(step="stitch", mib=stitch, of=section, remedy=remedy),
    ]


def _of_sections(geometry: Geometry) -> list[Need]:
    depth, height, width = geometry.shape_zyx
    align = geometry.parameters.align
    row = f"a section of {height} x {width} px"
    render = Need(
        step="align_render",
        mib=(_strips_mib((height, width)) + TILE_BYTES / 4 * prod(geometry.tile_yx_px or (0, 0)) / MIB)
        / (1 - CACHE_SHARE),
        of=row,
        remedy="image in more, smaller sections",
    )
    if geometry.aligned:
        return [render]
    window = min(LEAST_WINDOW_PX, align.window_px)
    compare = COMPARE_MIB + SHOWN_BYTES * prod(min(n, LONGEST_PX) for n in (height, width)) / MIB
    return [
        Need(
            step="align_pairs",
            mib=WINDOW_MIB + WINDOW_BYTES * window**2 / MIB,
            of=f"a window of {window} px",
            remedy="a smaller align.patch_px",
        ),
        Need(
            step="align_solve",
            mib=max(Solved.of(geometry.shape_zyx, align).mib(), compare),
            of=f"the elastic meshes of {depth} sections",
            remedy="larger align.mesh_spacing_px and align.stride_px",
        ),
        render,
    ]


def _of_subvolumes(geometry: Geometry) -> list[Need]:
    segment, shape = geometry.parameters.segment, geometry.shape_zyx
    size = [min(n, s) for n, s in zip(shape, segment.subvolume_zyx_px, strict=True)]
    faces = [prod(size) // n * min(o, n) for n, o in zip(size, segment.overlap_zyx_px, strict=True)]
    chunk = [min(n, c) for n, c in zip(shape, geometry.parameters.reconcile.chunk_zyx_px, strict=True)]
    smaller = "smaller segment.subvolume_zyx_px"
    subvolume = f"a subvolume of {' x '.join(map(str, size))}"
    return [
        Need(
            step="segment",
            mib=(segment.at_once or 1) * (FLOOD_MIB + FLOOD_BYTES * prod(size) / MIB),
            of=subvolume if segment.at_once is None else f"{segment.at_once} x {subvolume}",
            remedy=smaller if segment.at_once is None else f"{smaller} or segment.at_once",
        ),
        Need(
            step="match",
            mib=MATCH_MIB + MATCH_BYTES * max(faces) / MIB,
            of=f"an overlap of {max(faces):,} voxels",
            remedy=f"{smaller} or segment.overlap_zyx_px",
        ),
        Need(
            step="relabel",
            mib=RELABEL_MIB + relabel_bytes(geometry.parameters) * prod(chunk) / MIB,
            of=f"a chunk of {' x '.join(map(str, chunk))}",
            remedy="smaller reconcile.chunk_zyx_px",
        ),
    ]


def relabel_bytes(parameters: Parameters) -> float:
    """Of a voxel of the global labels, with all that the subvolumes that read it say."""
    p = parameters.segment
    axes = zip(p.subvolume_zyx_px, p.overlap_zyx_px, strict=True)
    return PAINTED_BYTES + PIECE_BYTES * prod(
        min(2.0, size / max(1, size - overlap)) for size, overlap in axes
    )


def _of_pairs(geometry: Geometry) -> list[Need]:
    p, shape = geometry.parameters, geometry.shape_zyx
    searched = Searched.of(shape, geometry.voxel_size_zyx_nm, p.candidates)
    block = [min(n, b) for n, b in zip(shape, p.candidates.block_zyx_px, strict=True)]
    found = [
        Need(
            step="candidates",
            mib=searched.mib(LEAST_PLANES),
            of=f"a block of {' x '.join(map(str, block))}",
            remedy="smaller candidates.block_zyx_px",
        )
    ]
    if geometry.fov_zyx is not None:
        pair = Reflooded.of(shape, geometry.fov_zyx, p.segment)
        found.append(
            Need(
                step="resegment",
                mib=pair.mib(pairs=1, read=pair.read),
                of=f"a pair in its cube of {pair.cube:,} voxels",
                remedy="a network with a smaller field of view",
            )
        )
    if geometry.objects is not None:
        found.append(
            Need(
                step="agglomerate",
                mib=deciding_mib(geometry.objects),
                of=f"a table of {geometry.objects:,.0f} objects",
                remedy="fewer objects: larger reconcile.min_object_voxels",
            )
        )
    return found


def _of_finish(geometry: Geometry) -> Need:
    shard = [
        min(n, s) for n, s in zip(geometry.shape_zyx, geometry.parameters.finish.shard_zyx_px, strict=True)
    ]
    return Need(
        step="finish",
        mib=FINISH_MIB + (FINISH_BYTES * LABEL_BYTES * prod(shard) + MAPPING_BYTES * geometry.mapped) / MIB,
        of=f"a shard of {' x '.join(map(str, shard))} labels",
        remedy="smaller finish.shard_zyx_px",
    )
