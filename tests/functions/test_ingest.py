"""Ingest: bad tiles are listed and left out; what makes a run impossible raises; nothing is read twice."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from functions import ingest
from functions.model.errors import AcquisitionError, UnsafePathError
from functions.model.parameters import IngestParameters, Parameters
from functions.runtime import StepFailed, execute
from functions.store.files import sha256_file
from functions.store.images import read_tile, write_tile
from functions.store.run import IngestManifest, Run
from functions.tasks import RunSpec
from tests.functions.test_microscopes_plain import SHAPE, edit_csv, edit_json, make


def run_of(folder: Path, parameters: IngestParameters | None = None) -> Run:
    spec = RunSpec(
        work=str(folder.parent / "work"),
        acquisition=str(folder),
        parameters=Parameters(ingest=parameters or IngestParameters()),
    )
    return Run(spec)


def manifest_of(folder: Path, parameters: IngestParameters | None = None) -> IngestManifest:
    run = run_of(folder, parameters)
    ingest.perform(run)
    return run.manifest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make(tmp_path / "small", sections=(3, 4, 5), tiles=3)
    return tmp_path / "small"


def test_good_tiles(folder: Path) -> None:
    run = run_of(folder)
    result = ingest.perform(run)
    assert (result.status, result.units, result.computed, result.problem_count) == ("ok", 3, 3, 0)
    size = sum(p.stat().st_size for p in folder.rglob("*.tif"))
    assert result.figures == {"sections": 3, "tiles": 9, "bad_tiles": 0, "missing_sections": 0, "bytes": size}
    assert result.paths == {"manifest": str(run.manifest_path)}
    assert [s.section.z for s in run.sections] == [3, 4, 5]
    assert len({s.fingerprint for s in run.sections}) == 3


def _truncate(folder: Path) -> None:
    path = folder / "s4" / "c1.tif"
    path.write_bytes(path.read_bytes()[:-200])


def _other_size(folder: Path) -> None:
    write_tile(folder / "s4" / "c1.tif", np.random.default_rng(1).integers(0, 256, (48, 60)).astype(np.uint8))


def _other_dtype(folder: Path) -> None:
    write_tile(folder / "s4" / "c1.tif", np.random.default_rng(1).integers(0, 256, SHAPE).astype(np.uint16))


def _saturate(folder: Path) -> None:
    pixels = read_tile(folder / "s4" / "c1.tif").copy()
    pixels[:30] = 255
    write_tile(folder / "s4" / "c1.tif", pixels)


BAD = {
    "missing": (lambda f: (f / "s4" / "c1.tif").unlink(), "s4/c1.tif: image"),
    "truncated": (_truncate, "s4/c1.tif: image"),
    "format": (lambda f: (f / "s4" / "c1.tif").write_text("tile"), "s4/c1.tif: image"),
    "wrong_size": (_other_size, "s4/c1.tif: height_px, width_px"),
    "wrong_dtype": (_other_dtype, "s4/c1.tif: dtype"),
    "blank": (lambda f: write_tile(f / "s4" / "c1.tif", np.full(SHAPE, 99, np.uint8)), "s4/c1.tif: image"),
    "saturated": (_saturate, "s4/c1.tif: image"),
    "duplicate": (
        lambda f: (f / "s4" / "c1.tif").write_bytes((f / "s3" / "c0.tif").read_bytes()),
        "s4/c1.tif: image",
    ),
    "checksum": (lambda f: edit_csv(f, 6, "sha256", "0" * 64), "s4/c1.tif: sha256"),
}


@pytest.mark.parametrize("code", BAD)
def test_a_bad_tile_is_listed_and_left_out(folder: Path, code: str) -> None:
    before = manifest_of(folder)
    damage, subject = BAD[code]
    damage(folder)
    run = run_of(folder)
    result = ingest.perform(run)
    assert (result.status, result.figures["bad_tiles"], result.problem_count) == ("look", 1, 1)
    assert (result.problems[0].code, result.problems[0].subject) == (code, subject)
    assert result.problems[0].remedy
    finding = run.manifest.findings[0]
    assert finding.message.startswith("section 4 tile g0_r000_c001 (s4/c1.tif): ")
    assert [t.id for t in run.sections[1].section.tiles] == ["g0_r000_c000", "g0_r000_c002"]
    assert len(run.manifest.acquisition.sections[1].tiles) == 3
    assert [a.fingerprint == b.fingerprint for a, b in zip(before.sections, run.sections, strict=True)] == [
        True,
        False,
        True,
    ]


def test_checksums_that_agree_and_that_are_not_asked_for(folder: Path) -> None:
    edit_csv(folder, 6, "sha256", sha256_file(folder / "s4" / "c1.tif"))
    assert manifest_of(folder).findings == ()
    edit_csv(folder, 6, "sha256", "0" * 64)
    assert manifest_of(folder, IngestParameters(verify_checksums=False)).findings == ()


def test_a_section_with_one_tile_is_used_and_reported(tmp_path: Path) -> None:
    make(tmp_path / "small", sections=(3, 4), tiles=2)
    lines = (tmp_path / "small" / "tiles.csv").read_text().splitlines()
    (tmp_path / "small" / "tiles.csv").write_text("\n".join(lines[:4]) + "\n")
    manifest = manifest_of(tmp_path / "small")
    assert [(f.code, f.subject) for f in manifest.findings] == [("one_tile", "s4/c0.tif: section")]
    assert [len(s.section.tiles) for s in manifest.sections] == [2, 1]


def test_a_section_without_usable_tiles_is_no_section(folder: Path) -> None:
    for path in (folder / "s4").iterdir():
        path.unlink()
    manifest = manifest_of(folder)
    assert [s.section.z for s in manifest.sections] == [3, 5]
    assert manifest.findings[-1].code == "empty_section"


def test_missing_sections_are_found(tmp_path: Path) -> None:
    make(tmp_path / "small", sections=(3, 4, 7))
    run = run_of(tmp_path / "small")
    result = ingest.perform(run)
    assert run.manifest.acquisition.missing_sections == (5, 6)
    assert (result.status, result.figures["missing_sections"]) == ("look", 2)
    assert result.problems[0].subject == "sections 5 to 6"


def test_chosen_sections(folder: Path) -> None:
    manifest = manifest_of(folder, IngestParameters(sections=(4, 9)))
    assert [s.section.z for s in manifest.sections] == [4, 5]
    with pytest.raises(AcquisitionError, match=r"ingest.sections: 7:9 holds none of the sections 3 to 5"):
        manifest_of(folder, IngestParameters(sections=(7, 9)))


def test_nothing_usable_raises_and_writes_no_manifest(folder: Path) -> None:
    for path in folder.rglob("*.tif"):
        path.write_bytes(b"")
    run = run_of(folder)
    with pytest.raises(AcquisitionError, match=r"none of 9 tiles is usable .*section 5"):
        ingest.perform(run)
    assert not run.manifest_path.exists()


def test_unreadable_metadata_and_climbing_paths_raise(folder: Path) -> None:
    edit_csv(folder, 3, "path", "../../x.tif")
    with pytest.raises(UnsafePathError, match=r"tiles.csv: row 3: path: path '../../x.tif' leaves small/"):
        ingest.perform(run_of(folder))
    with pytest.raises(StepFailed, match=r"ingest: tiles.csv: row 3: path"):
        execute("ingest", {"run": run_of(folder).spec.to_json()})
    edit_json(folder, id=None)
    with pytest.raises(AcquisitionError, match=r"acquisition.json: id"):
        ingest.perform(run_of(folder))
    assert not run_of(folder).manifest_path.exists()


def test_again_reads_nothing_and_writes_the_same_bytes(folder: Path) -> None:
    run = run_of(folder)
    ingest.perform(run)
    content, written = run.manifest_path.read_bytes(), run.manifest_path.stat().st_mtime_ns
    # unreadable now, but of the same size and time: it must not be opened again
    tile = folder / "s3" / "c0.tif"
    kept, stat = tile.read_bytes(), tile.stat()
    tile.write_bytes(bytes(stat.st_size))
    os.utime(tile, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    result = ingest.perform(run_of(folder))
    assert (result.status, result.computed, result.reused) == ("ok", 0, 3)
    assert run.manifest_path.stat().st_mtime_ns == written
    tile.write_bytes(kept)
    # a fresh work root gives the same manifest
    other = Run(run.spec.model_copy(update={"work": str(folder.parent / "other")}))
    ingest.perform(other)
    assert other.manifest_path.read_bytes() == content


def test_a_grown_acquisition_costs_only_its_new_tiles(folder: Path) -> None:
    before = manifest_of(folder)
    make(folder, sections=(3, 4, 5, 6), tiles=3, images=False)
    for column in range(3):
        pixels = np.random.default_rng([9, column]).integers(0, 256, SHAPE).astype(np.uint8)
        write_tile(folder / "s6" / f"c{column}.tif", pixels)
    run = run_of(folder)
    result = ingest.perform(run)
    assert (result.computed, result.reused) == (1, 3)
    assert run.sections[:3] == before.sections


def test_a_tile_that_came_later_is_taken(folder: Path) -> None:
    path = folder / "s4" / "c1.tif"
    kept = path.read_bytes()
    good = manifest_of(folder)
    path.unlink()
    assert len(manifest_of(folder).sections[1].section.tiles) == 2
    path.write_bytes(kept)
    os.utime(path)
    assert manifest_of(folder).sections == good.sections


def test_an_aligned_stack_keeps_a_copied_plane(tmp_path: Path) -> None:
    make(tmp_path / "a", sections=(0, 1), tiles=1)
    edit_json(tmp_path / "a", aligned=True)
    (tmp_path / "a" / "s1" / "c0.tif").write_bytes((tmp_path / "a" / "s0" / "c0.tif").read_bytes())
    result = ingest.perform(run_of(tmp_path / "a"))
    assert (result.status, result.figures["sections"]) == ("ok", 2)


def test_statistics_of_blocks_equal_those_of_the_whole() -> None:
    pixels = np.random.default_rng(3).integers(0, 65536, (50, 37)).astype(np.uint16)
    pixels[:5] = 65535
    expected = (pixels.std(), ((pixels == 0) | (pixels == 65535)).mean())
    assert ingest.statistics(pixels, block_pixels=100) == pytest.approx(expected)
