"""Small run directories for tests: an ingest manifest without pixels."""

from pathlib import Path

from functions.model.acquisition import Acquisition, Section, Tile
from functions.model.parameters import Parameters
from functions.store.files import write_json
from functions.store.run import IngestedSection, IngestManifest, Run
from functions.tasks import RunSpec


def spec(root: Path, parameters: Parameters | None = None) -> RunSpec:
    """A run under `root/work` of the acquisition `root/raw`."""
    return RunSpec(
        work=str(root / "work"), acquisition=str(root / "raw"), parameters=parameters or Parameters()
    )


def ingested(
    root: Path,
    z: tuple[int, ...],
    *,
    aligned: bool = False,
    changed: int | None = None,
    parameters: dict[str, object] | None = None,
) -> Run:
    """A run whose ingest is done, with one tile a section; `changed` gets another fingerprint."""
    run = Run(spec(root, Parameters.parse(parameters or {}, source="test")))
    sections = tuple(
        Section(
            z=k,
            tiles=(Tile(row=0, column=0, path=f"s{k}.tif", stage_yx_nm=(0.0, 0.0), shape_yx=(64, 64)),),
        )
        for k in z
    )
    manifest = IngestManifest(
        acquisition=Acquisition(
            id="small",
            instrument="none",
            layout="plain",
            voxel_size_zyx_nm=(30.0, 8.0, 8.0),
            aligned=aligned,
            sections=sections,
        ),
        sections=tuple(
            IngestedSection(section=s, fingerprint=f"f{s.z}{'*' * (s.z == changed)}") for s in sections
        ),
    )
    write_json(run.manifest_path, manifest.to_json())
    return Run(run.spec)
