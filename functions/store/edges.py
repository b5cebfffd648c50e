"""Files of agglomeration: pairs that might be one object, what flooding them again showed, what was decided.

    candidates/<key>/points/3fa/<block>.npy  one row a pair (`POINT`), in the order in which they are flooded
    candidates/<key>/sizes/3fa/<block>.npy   voxels of each object inside the block (`SIZE`)
    resegment/<key>/evidence/3fa/<unit>.npy  one row a pair (`EVIDENCE`)
    agglomerate/<key>/edges.csv              the edge list: every pair, its scores and the decision
    agglomerate/<key>/mapping.npy            object of each id that is not its own (`MAPPED`)

Ids are those of the global labels that relabel writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ffn.candidates import Contact, DecisionPoint
from ffn.evidence import PairEvidence, Reflooding
from functions.model.errors import UpstreamError, VolumeError
from functions.model.geometry import Box, cut_box, find_box
from functions.store.equalities import Records, read_records
from functions.store.files import atomic_path
from functions.store.run import Run
from functions.store.spread import spread
from functions.store.traffic import note_written

AGGLOMERATE_UNIT = "all"
"""The one unit of agglomerate."""
_PLACE = [("first", "<u4"), ("second", "<u4"), ("z", "<i4"), ("y", "<i4"), ("x", "<i4")]
POINT = np.dtype(
    [*_PLACE, ("distance_nm", "<f8"), ("faces", "<u4"), ("share", "<f8"), ("grey", "<f8"), ("overlap", "<f8")]
)
"""`faces`, `share` and `grey` of the contact (`ffn.candidates`); `overlap`: share of the smaller label of a
refused overlap that lies in the other, 0 where there is none."""
SIZE = np.dtype([("id", "<u4"), ("voxels", "<u8")])
_SIDE_FIELDS = [f.name for f in fields(Reflooding) if f.name != "seed_zyx"]
_SIDE = np.dtype(
    [
        ("flooded", "u1"), ("seed_z", "<i4"), ("seed_y", "<i4"), ("seed_x", "<i4"),
        *((name, "<f8") for name in _SIDE_FIELDS),
    ]
)  # fmt: skip
EVIDENCE = np.dtype(
    [
        *_PLACE, ("voxels_first", "<u4"), ("voxels_second", "<u4"), ("max_edt_first_nm", "<f8"),
        ("max_edt_second_nm", "<f8"), ("iou", "<f8"), ("from_first", _SIDE), ("from_second", _SIDE),
    ]
)  # fmt: skip
MAPPED = np.dtype([("id", "<u4"), ("object", "<u4")])
_WHOLE = ("attempts", "moves", "voxels", "deleted_voxels")


@dataclass(frozen=True, slots=True)
class Mapping:
    """Which `ids` (ascending) belong to another of `objects`; all others are their own."""

    ids: NDArray[np.uint32]
    objects: NDArray[np.uint32]

    @classmethod
    def of(cls, records: Records) -> Mapping:
        """The columns of records, each by itself: to search one of records is to copy it first."""
        return cls(ids=records["id"].copy(), objects=records["object"].copy())

    def apply(self, labels: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The same labels (Z, Y, X), in which every id was replaced by its object: in place, plane by plane,
        since there is no room for a shard's labels once more, nor for 8 bytes of each of its voxels."""
        for plane in labels if self.ids.size else ():
            at = np.minimum(np.searchsorted(self.ids, plane), self.ids.size - 1)
            np.copyto(plane, self.objects[at], where=self.ids[at] == plane)
        return labels


def blocks_of(run: Run) -> Iterator[Box]:
    """The boxes that candidates are looked for in, in z, y, x order."""
    shape = run.aligned.volume.shape_zyx
    return cut_box(shape, run.parameters.candidates.block_zyx_px)


def block_of(run: Run, name: str) -> Box:
    """The block of that name, without looking at all others.

    Raises:
        KeyError: there is none.
    """
    return find_box(name, run.aligned.volume.shape_zyx, run.parameters.candidates.block_zyx_px)


def points_path(run: Run, block: str) -> Path:
    """Where the candidates of a block are."""
    return spread(run.cell("candidates").file("points"), f"{block}.npy")


def sizes_path(run: Run, block: str) -> Path:
    """Where the sizes of a block's objects are."""
    return spread(run.cell("candidates").file("sizes"), f"{block}.npy")


def evidence_path(run: Run, unit: str) -> Path:
    """Where the evidence of a batch of candidates is."""
    return spread(run.cell("resegment").file("evidence"), f"{unit}.npy")


def batches_of(run: Run) -> Iterator[tuple[str, Records]]:
    """Units of resegment and their candidates: batches of a block.

    Raises:
        VolumeError: candidates of a block are missing.
    """
    for block in blocks_of(run) if run.agglomerates else ():
        yield from _batches(run, block.id)


def batch_of(run: Run, unit: str) -> Records:
    """The candidates of one unit of resegment; those of its block are read, and no others.

    Raises:
        KeyError: there is no such unit.
        VolumeError: candidates of its block are missing.
    """
    block = block_of(run, unit.rpartition("-")[0])
    return dict(_batches(run, block.id))[unit]


def _batches(run: Run, block: str) -> Iterator[tuple[str, Records]]:
    most = run.parameters.resegment.pairs_per_unit
    points = read_records(points_path(run, block), POINT)
    for number, start in enumerate(range(0, points.size, most)):
        yield f"{block}-{number:05d}", points[start : start + most]


def pack_points(contacts: Sequence[tuple[Contact, float]]) -> Records:
    """Contacts, each with the share of its refused overlap, as records."""
    records = np.zeros(len(contacts), POINT)
    for record, (contact, overlap) in zip(records, contacts, strict=True):
        point = contact.point
        record["first"], record["second"] = point.first, point.second
        record["z"], record["y"], record["x"] = point.point_zyx
        record["distance_nm"], record["faces"] = point.distance_nm, contact.faces
        record["share"], record["grey"], record["overlap"] = contact.share, contact.grey, overlap
    return records


def unpack_points(records: Records) -> list[DecisionPoint]:
    """The decision points of records."""
    return [
        DecisionPoint(
            first=int(r["first"]),
            second=int(r["second"]),
            point_zyx=(int(r["z"]), int(r["y"]), int(r["x"])),
            distance_nm=float(r["distance_nm"]),
        )
        for r in records
    ]


def pack_evidence(evidence: Sequence[PairEvidence]) -> Records:
    """Evidence as records."""
    records = np.zeros(len(evidence), EVIDENCE)
    for record, e in zip(records, evidence, strict=True):
        record["z"], record["y"], record["x"] = e.point_zyx
        for name in ("first", "second", "voxels_first", "voxels_second", "iou"):
            record[name] = getattr(e, name)
        record["max_edt_first_nm"], record["max_edt_second_nm"] = e.max_edt_first_nm, e.max_edt_second_nm
        for name in ("from_first", "from_second"):
            side: Reflooding | None = getattr(e, name)
            if side is not None:
                numbers = [getattr(side, field) for field in _SIDE_FIELDS]
                record[name] = (1, *side.seed_zyx, *numbers)
    return records


def _unpack_side(r: np.void) -> Reflooding | None:
    if not r["flooded"]:
        return None
    numbers = {name: int(r[name]) if name in _WHOLE else float(r[name]) for name in _SIDE_FIELDS}
    seed = (int(r["seed_z"]), int(r["seed_y"]), int(r["seed_x"]))
    return Reflooding(seed_zyx=seed, **numbers)  # type: ignore[arg-type]


def read_evidence(run: Run, unit: str, points: Records) -> Iterator[PairEvidence]:
    """The evidence of a batch of candidates, in their order, one after the other.

    Raises:
        VolumeError: it is missing, damaged, or of other candidates.
    """
    path = evidence_path(run, unit)
    records = read_records(path, EVIDENCE)
    place = [name for name, _ in _PLACE]
    if records.size != points.size or any((records[name] != points[name]).any() for name in place):
        raise VolumeError(
            f"{path}: evidence of other candidates", remedy="remove its cell, and start the run at resegment"
        )
    return unpack_evidence(records)


def unpack_evidence(records: Records) -> Iterator[PairEvidence]:
    """The evidence of records, equal to what was packed, one after the other: it is 2 KB each."""
    return map(_unpack, records)


def _unpack(r: np.void) -> PairEvidence:
    return PairEvidence(
        first=int(r["first"]),
        second=int(r["second"]),
        point_zyx=(int(r["z"]), int(r["y"]), int(r["x"])),
        voxels_first=int(r["voxels_first"]),
        voxels_second=int(r["voxels_second"]),
        max_edt_first_nm=float(r["max_edt_first_nm"]),
        max_edt_second_nm=float(r["max_edt_second_nm"]),
        from_first=_unpack_side(r["from_first"]),
        from_second=_unpack_side(r["from_second"]),
        iou=float(r["iou"]),
    )


def edges_path(run: Run) -> Path:
    """Where the edge list is."""
    return run.cell("agglomerate").file("edges.csv")


def write_mapping(run: Run, count: int, parts: Iterable[Records]) -> None:
    """Write `count` ids that are not their own object, ascending, with that; atomically, part by part."""
    with atomic_path(run.cell("agglomerate").file("mapping.npy")) as partial, open(partial, "wb") as handle:
        header = {"descr": np.lib.format.dtype_to_descr(MAPPED), "fortran_order": False, "shape": (count,)}
        np.lib.format.write_array_header_1_0(handle, header)
        for part in parts:
            handle.write(part.tobytes())
        note_written(stored=handle.tell(), raw=count * MAPPED.itemsize)


def read_mapping(run: Run) -> Mapping:
    """What agglomerate made of the global ids; nothing where agglomeration is off.

    Raises:
        UpstreamError: agglomerate has not run.
        VolumeError: the mapping is damaged.
    """
    cell = run.cell("agglomerate") if run.agglomerates else None
    if cell is None:
        return Mapping.of(np.zeros(0, MAPPED))
    if not cell.is_done(AGGLOMERATE_UNIT):
        raise UpstreamError(
            f"{cell.path}: objects are not agglomerated", remedy="start the run at candidates"
        )
    return Mapping.of(read_records(cell.file("mapping.npy"), MAPPED))


def count_mapped(run: Run) -> int:
    """How many ids belong to another object: 0 where agglomeration is off, or has not run."""
    cell = run.cell("agglomerate") if run.agglomerates else None
    if cell is None or not cell.is_done(AGGLOMERATE_UNIT):
        return 0
    figures = cell.mark(AGGLOMERATE_UNIT).figures
    return int(figures["objects_before"] - figures["objects"])
