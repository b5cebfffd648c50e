"""The last look at a bundle, and its record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from functions import publish
from functions.model.errors import UpstreamError, VolumeError
from functions.publication import bundle
from functions.runtime import execute
from functions.store.files import sha256_file
from functions.store.run import Run
from functions.tasks import SearchEntry
from tests.functions.finished import finished_run


def test_the_result_is_what_transfer_and_search_need(finished: Run) -> None:
    result = execute("publish", {"run": finished.spec.to_json()})
    folder = Path(result["paths"]["bundle"])
    assert (folder / "volume.zarr" / "zarr.json").exists()
    assert len(json.dumps(result["entry"], separators=(",", ":"))) <= 1024
    entry = SearchEntry.parse(result["entry"], source="result")
    assert entry.dc.titles[0].title == "A small volume"
    assert entry.dc.creators[0].creatorName == "Lab of Examples"
    assert entry.dc.publicationYear == "2026"
    assert entry.em.size_vx == (8, 250, 270)
    assert entry.em.voxels == 540_000
    assert (entry.em.sections, entry.em.segments, entry.em.status) == (7, 60, "look")
    assert entry.files[0].filename == bundle.MANIFEST
    assert entry.files[0].sha256 == sha256_file(folder / bundle.MANIFEST)
    assert result["figures"]["levels"] == 4


def test_search_json_is_the_record(finished: Run) -> None:
    folder = finished.cell("finish").file("bundle")
    entry = SearchEntry.parse((folder / "search.json").read_bytes(), source="search.json")
    assert entry.files == ()
    assert publish.perform(finished).entry.em == entry.em


def test_there_must_be_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="start the run at finish"):
        publish.perform(finished_run(tmp_path / "new"))


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("volume.zarr/0/c/0/0/0", "change", r"volume\.zarr/0/c/0/0/0: checksum differs"),
        ("volume.zarr/labels/segmentation/1/zarr.json", "remove", r"1/zarr\.json: is missing"),
        ("report.html", "remove", r"report\.html: is missing"),
        ("volume.zarr/extra", "add", r"extra: is not in manifest"),
        (bundle.MANIFEST, "remove", r"no manifest-sha256"),
        (bundle.MANIFEST, "change", r"line \d+ does not parse"),
    ],
)
def test_damage_is_named(finished: Run, tmp_path: Path, name: str, damage: str, message: str) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(finished.cell("finish").file("bundle"), copy)
    path = copy / name
    if damage == "remove":
        path.unlink()
    else:
        with open(path, "ab") as handle:
            handle.write(b"x")
    with pytest.raises(VolumeError, match=message):
        bundle.verify(copy)


def test_levels_that_do_not_open_are_named(finished: Run, tmp_path: Path) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(finished.cell("finish").file("bundle"), copy)
    (copy / "volume.zarr" / "2" / "zarr.json").unlink()
    with pytest.raises(VolumeError, match=r"volume\.zarr: does not open"):
        bundle.open_levels(copy)


def test_the_manifest_is_what_sha256sum_reads(finished: Run) -> None:
    folder = finished.cell("finish").file("bundle")
    lines = (folder / bundle.MANIFEST).read_text().splitlines()
    for line in lines:
        checksum, name = line.split("  ", 1)
        assert sha256_file(folder / name) == checksum
    names = [line.split("  ", 1)[1] for line in lines]
    assert names == sorted(names)
    assert bundle.MANIFEST not in names
