"""Damaged acquisitions end in a message that names file and field, and nothing half-written is published."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile

from flows.errors import InputError
from flows.inputs import RunRequest
from flows.records import RunRecord, RunStatus
from flows.run import Runs
from flows.site import local_site
from functions.model.parameters import Parameters
from functions.publication.bundle import verify
from functions.store.run import Run
from functions.tasks import RunSpec
from tests.e2e.worlds import SMALL, write_small_acquisition


def run(folder: Path, home: Path) -> RunRecord:
    runs = Runs(local_site(home, workers=2), home=home)
    return runs.start(
        RunRequest(source=str(folder), parameters=Parameters.model_validate_json(SMALL)), wait=True
    )


def tile_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "tiles.csv").open(newline="") as handle:
        return list(csv.DictReader(handle))


def write_rows(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "tiles.csv").open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture
def acquisition(tmp_path: Path) -> Path:
    return write_small_acquisition(tmp_path / "acquisition")


def test_bad_tiles_are_named_and_the_rest_is_published(acquisition: Path, tmp_path: Path) -> None:
    rows = tile_rows(acquisition)
    by_section = {z: [r for r in rows if int(r["section"]) == z] for z in range(20)}
    truncated, missing, other_size = (by_section[z][0]["path"] for z in (4, 7, 10))
    whole = (acquisition / truncated).read_bytes()
    (acquisition / truncated).write_bytes(whole[: len(whole) // 2])
    (acquisition / missing).unlink()
    tifffile.imwrite(acquisition / other_size, np.full((40, 30), 100, np.uint8))
    write_rows(acquisition, [r for r in rows if int(r["section"]) != 13] + by_section[13][:1])

    record = run(acquisition, tmp_path / "home")

    assert record.status is RunStatus.SUCCEEDED, record.error
    manifest = Run(RunSpec.parse(record.input["input"]["run"], source="input")).manifest
    told = {finding.subject: finding.message for finding in manifest.findings}
    for path in (truncated, missing, other_size):
        assert any(path in subject + message for subject, message in told.items()), (path, told)
    tiles = {s.section.z: len(s.section.tiles) for s in manifest.sections}
    assert [tiles[z] for z in (4, 7, 10, 13, 0)] == [3, 3, 3, 1, 4]
    published = Path(record.published_path or "")
    assert verify(published)
    report = (published / "report.html").read_text()
    assert all(Path(path).name in report for path in (truncated, missing, other_size))


def break_json(folder: Path) -> None:
    (folder / "acquisition.json").write_text('{"schema": "petavoxel.acquisition/1", ')


def drop_field(folder: Path) -> None:
    document = json.loads((folder / "acquisition.json").read_text())
    del document["voxel_size_zyx_nm"]
    (folder / "acquisition.json").write_text(json.dumps(document))


def climb(folder: Path) -> None:
    rows = tile_rows(folder)
    rows[5]["path"] = "../../x.tif"
    write_rows(folder, rows)


def misspell_number(folder: Path) -> None:
    rows = tile_rows(folder)
    rows[2]["stage_x_nm"] = "12,5"
    write_rows(folder, rows)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (break_json, ["acquisition.json"]),
        (drop_field, ["acquisition.json", "voxel_size_zyx_nm"]),
        (climb, ["tiles.csv", "path", "../../x.tif"]),
        (misspell_number, ["tiles.csv", "row 4", "stage_x_nm"]),
    ],
)
def test_an_unusable_manifest_fails_by_name_and_publishes_nothing(
    acquisition: Path, tmp_path: Path, damage: object, named: list[str]
) -> None:
    assert callable(damage)
    damage(acquisition)
    try:
        record = run(acquisition, tmp_path / "home")
    except InputError as refused:  # before a run is made of it
        message = str(refused)
    else:
        assert record.status is RunStatus.FAILED
        assert record.published_path is None
        message = record.error or ""
    for word in named:
        assert word in message
    assert not list((tmp_path / "home" / "published").rglob("*.*"))
