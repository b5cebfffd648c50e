"""`acquisition lens`: learnt from one run, used by the next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.functions.registration_scenes import VOXEL_ZYX_NM, write_montage
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode


def write_folder(folder: Path) -> None:
    """A plain folder of one section of 2 x 2 tiles."""
    section, _ = write_montage(folder, grid=(2, 2))
    rows = ["section,row,column,path,stage_y_nm,stage_x_nm,height_px,width_px"]
    rows += [
        f"0,{t.row},{t.column},{t.path},{t.stage_yx_nm[0]},{t.stage_yx_nm[1]},{t.shape_yx[0]},{t.shape_yx[1]}"
        for t in section.tiles
    ]
    (folder / "tiles.csv").write_text("\n".join(rows) + "\n")
    header = {
        "schema": "petavoxel.acquisition/1",
        "id": "sample",
        "instrument": "SEM 2 (left)",
        "voxel_size_zyx_nm": VOXEL_ZYX_NM,
        "dtype": "uint8",
    }
    (folder / "acquisition.json").write_text(json.dumps(header))


def test_a_lens_is_learnt_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAVOXEL_HOME", str(tmp_path / "home"))
    write_folder(tmp_path / "acq")
    words = ("--stop-after", "stitch", "--workers", "1", "--wait", "-o", "json")
    assert petavoxel("run", "start", tmp_path / "acq", *words).code == ExitCode.DONE
    file = tmp_path / "lens.json"
    first = petavoxel("acquisition", "lens", "last", "--to", file, "-o", "json")
    assert first.code == ExitCode.DONE, first.err
    assert first.document == {"file": str(file), **json.loads(file.read_text())}
    assert (first.document["camera"], first.document["tile_shape_yx"]) == ("SEM-2-left", [160, 160])
    assert first.document["shading"]["tiles"] == 4
    table = petavoxel("acquisition", "lens", "last", "--to", tmp_path / "other.json")
    assert "even, as far as 4 tiles show" in " ".join(table.out.split())
    given = ("--set", f"stitch.lens={file}")
    assert petavoxel("run", "start", tmp_path / "acq", *given, *words).code == ExitCode.DONE
    again = petavoxel("acquisition", "lens", "last", "--to", file, "--from", file, "-o", "json")
    assert again.code == ExitCode.DONE, again.err
    assert [again.document[name] for name in ("sections", "tiles", "weight")] == [2, 8, 8]
    missing = petavoxel("acquisition", "lens", "last", "--to", file, "--from", tmp_path / "no.json")
    assert missing.code != ExitCode.DONE
    assert "no.json: cannot be read" in missing.err
