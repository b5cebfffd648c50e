"""The content of the volume's entry in a search index, small and flat."""

from __future__ import annotations

from functions.publication.facts import Facts
from functions.store.cells import CODE_VERSION
from functions.tasks import CitationRecord, Creator, Day, PublishedFile, SearchEntry, Title, VolumeRecord


def search_entry(facts: Facts) -> SearchEntry:
    """What a person finds the volume by. Nothing per tile or chunk, no field that changes its type."""
    run, image = facts.run, facts.image
    finish, day = run.parameters.finish, facts.finished.date()
    return SearchEntry(
        dc=CitationRecord(
            titles=(Title(title=facts.title),),
            creators=tuple(Creator(creatorName=name) for name in finish.creators),
            publisher=finish.publisher,
            publicationYear=str(day.year),
            dates=(Day(date=day.isoformat()),),
            version=CODE_VERSION,
        ),
        em=VolumeRecord(
            acquisition_id=run.manifest.acquisition.id,
            instrument=run.manifest.acquisition.instrument,
            voxel_nm=image.voxel_size_zyx_nm,
            size_vx=image.shape_zyx,
            voxels=image.box.voxels,
            sections=len(run.sections),
            segments=facts.count.segments,
            labelled_fraction=round(facts.count.fraction, 4),
            status=facts.status,
        ),
    )


def with_file(entry: SearchEntry, file: PublishedFile) -> SearchEntry:
    """The entry with one more file."""
    return entry.model_copy(update={"files": (*entry.files, file)})
