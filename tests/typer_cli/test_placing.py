"""`volume locate`, `render` and `export-transforms` on a run of the embedded site."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import zarr

from functions.microscopes.importing import import_stack
from functions.store.pyramid import pool_mean
from tests.typer_cli.invoking import petavoxel
from typer_cli.boundary import ExitCode

VOXEL = (40.0, 8.0, 8.0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    return np.random.default_rng(5).integers(40, 220, (3, 96, 80), dtype=np.uint8)


@pytest.fixture(scope="module")
def home(stack: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    np.save(root / "stack.npy", stack)
    folder = import_stack(root / "stack.npy", root / "sample", voxel_size_zyx_nm=VOXEL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PETAVOXEL_HOME", str(root / "home"))
        words = ("--stop-after", "align_solve", "--workers", "1", "--wait", "-o", "json")
        done = petavoxel("run", "start", folder, *words)
    assert done.code == ExitCode.DONE, done.err
    return root / "home"


@pytest.fixture(autouse=True)
def _site(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PETAVOXEL_HOME", str(home))


def test_locate_a_tile_pixel_and_back() -> None:
    words = ("--section", "1", "--tile", "g0_r000_c000", "--at", "30.5,40")
    found = petavoxel("volume", "locate", "last", *words, "-o", "json").document
    assert found["state"] == "shown"
    assert found["voxel_zyx"] == [1.0, 30.5, 40.0]
    assert found["volume_zyx_nm"] == [40.0, 244.0, 320.0]
    back = petavoxel("volume", "locate", "last", "--voxel", "1,30.5,40", "-o", "json").document
    assert back["tiles"][0]["tile"] == "g0_r000_c000"
    assert (back["tiles"][0]["yx_px"], back["tiles"][0]["drawn"]) == ([30.5, 40.0], True)
    stage = petavoxel("volume", "locate", "last", "--section", "1", "--stage", "244,320", "-o", "json")
    assert stage.document["voxel_zyx"] == [1.0, 30.5, 40.0]
    text = petavoxel("volume", "locate", "last", "--voxel", "1,30.5,40").out
    assert "g0_r000_c000" in text
    assert "244.00, 320.00" in text


def test_locate_says_when_nothing_is_there() -> None:
    done = petavoxel("volume", "locate", "last", "--voxel", "1,300,40", "-o", "json")
    assert (done.code, done.document["state"]) == (ExitCode.NO, "outside_volume")
    lost = petavoxel("volume", "locate", "last", "--section", "9", "--stage", "0,0", "-o", "json")
    assert lost.code == ExitCode.PUT_RIGHT
    assert "section 9: not among the usable sections" in lost.document["error"]["message"]
    assert lost.document["error"]["remedy"] == "use one of 0, 1, 2"


def test_locate_many_points(tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("name,voxel_z,voxel_y,voxel_x\na,0,5,6\nb,2,500,6\n")
    words = ("--points", tmp_path / "in.csv", "--to", tmp_path / "out.csv")
    done = petavoxel("volume", "locate", "last", *words, "-o", "json")
    assert done.code == ExitCode.DONE
    assert done.document["shown"] == 1
    lines = (tmp_path / "out.csv").read_text().splitlines()
    assert lines[0].startswith("name,voxel_z,voxel_y,voxel_x,state,section_id,drawn_tile")
    assert lines[1].startswith("a,0,5,6,shown,z00000,g0_r000_c000,")
    assert lines[2].startswith("b,2,500,6,outside_volume,,")
    assert "1 of 2 points are shown" in petavoxel("volume", "locate", "last", *words[:2]).out


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--voxel", "1,2"],
        ["--voxel", "1,2,x"],
        ["--tile", "g0_r000_c000", "--section", "0"],
        ["--tile", "g0_r000_c000", "--at", "1,2"],
        ["--stage", "0,0"],
        ["--voxel", "1,2,3", "--section", "0"],
        ["--voxel", "1,2,3", "--stage", "0,0"],
        ["--voxel", "1,2,3", "--to", "x.csv"],
    ],
)
def test_locate_refuses_half_a_question(words: list[str]) -> None:
    assert petavoxel("volume", "locate", "last", *words).code == ExitCode.USAGE


def test_render_a_level(stack: np.ndarray, tmp_path: Path) -> None:
    words = ("--level", "1", "--sections", "1:3", "--to", tmp_path / "look.zarr")
    done = petavoxel("volume", "render", "last", *words, "-o", "json")
    assert done.code == ExitCode.DONE, done.err
    assert done.document["shape_zyx"] == [2, 48, 40]
    image = np.asarray(zarr.open_group(str(tmp_path / "look.zarr"), mode="r")["0"][...])
    np.testing.assert_array_equal(image, pool_mean(stack[1:], (1, 2, 2)))
    again = petavoxel("volume", "render", "last", *words, "-o", "json")
    assert again.code == ExitCode.PUT_RIGHT
    assert "another folder" in again.document["error"]["remedy"]


def test_export_transforms(tmp_path: Path) -> None:
    done = petavoxel("volume", "export-transforms", "last", "--to", tmp_path / "t", "-o", "json")
    assert done.document["sections"] == 3
    index = json.loads((tmp_path / "t" / "index.json").read_text())
    assert index["format"] == "petavoxel.transforms/1"
    assert index["voxel_size_zyx_nm"] == list(VOXEL)
    words = ("--format", "relative-map", "--stride", "16")
    done = petavoxel("volume", "export-transforms", "last", "--to", tmp_path / "m", *words)
    assert done.code == ExitCode.DONE
    with np.load(tmp_path / "m" / "map.npz") as npz:
        assert npz["map"].shape == (2, 3, 7, 6)
        assert not npz["map"].any()
    words = ("--to", tmp_path / "l", "--format", "landmarks")
    assert petavoxel("volume", "export-transforms", "last", *words).code == ExitCode.PUT_RIGHT
