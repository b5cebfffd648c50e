"""Importers: aligned stacks and generic tile lists become plain folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from functions.microscopes import check_acquisition, read_acquisition
from functions.microscopes.importing import import_stack, import_tiles_csv
from functions.model.errors import AcquisitionError, UnsafePathError
from functions.model.geometry import Box
from functions.store.images import read_tile, write_tile

STACK = np.random.default_rng(5).integers(0, 256, (12, 20, 30)).astype(np.uint8)


def _sources(folder: Path) -> dict[str, Path]:
    np.save(folder / "stack.npy", STACK)
    np.savez(folder / "named.npz", raw=STACK, gt=STACK.astype(np.uint32))
    np.savez(folder / "only.npz", something=STACK)
    tifffile.imwrite(folder / "stack.tif", STACK, photometric="minisblack")
    for z, plane in enumerate(STACK):
        write_tile(folder / "planes" / f"z{z}.png", plane)
    return {name: folder / name for name in ("stack.npy", "named.npz", "only.npz", "stack.tif", "planes")}


@pytest.mark.parametrize("name", ["stack.npy", "named.npz", "only.npz", "stack.tif", "planes"])
def test_a_box_of_each_kind_of_stack(tmp_path: Path, name: str) -> None:
    source = _sources(tmp_path)[name]
    box = Box(offset_zyx=(1, 2, 3), shape_zyx=(10, 16, 25))
    out = import_stack(source, tmp_path / "out", voxel_size_zyx_nm=(10, 10, 10), box=box)
    acquisition = read_acquisition(out).acquisition
    assert (acquisition.aligned, acquisition.dtype, len(acquisition.sections)) == (True, "uint8", 10)
    planes = [read_tile(out / s.tiles[0].path) for s in acquisition.sections]
    assert np.array_equal(np.stack(planes), STACK[box.slices])
    assert check_acquisition(out).complete


def test_what_is_no_stack(tmp_path: Path) -> None:
    np.save(tmp_path / "flat.npy", STACK[0])
    np.save(tmp_path / "float.npy", STACK.astype(float))
    np.save(tmp_path / "pickle.npy", np.array([{}]), allow_pickle=True)
    np.savez(tmp_path / "two.npz", a=STACK, b=STACK)
    (tmp_path / "text.npz").write_text("no")
    (tmp_path / "text.tif").write_text("no")
    (tmp_path / "empty").mkdir()
    for name in (
        "flat.npy",
        "float.npy",
        "pickle.npy",
        "two.npz",
        "text.npz",
        "text.tif",
        "empty",
        "none.npy",
    ):
        with pytest.raises(AcquisitionError, match=name):
            import_stack(tmp_path / name, tmp_path / "out", voxel_size_zyx_nm=(10, 10, 10))
    np.save(tmp_path / "good.npy", STACK)
    with pytest.raises(AcquisitionError, match="leaves the stack"):
        import_stack(
            tmp_path / "good.npy",
            tmp_path / "out",
            voxel_size_zyx_nm=(10, 10, 10),
            box=Box(offset_zyx=(8, 0, 0), shape_zyx=(5, 5, 5)),
        )
    with pytest.raises(AcquisitionError, match="voxel_size_zyx_nm"):
        import_stack(tmp_path / "good.npy", tmp_path / "out", voxel_size_zyx_nm=(0, 10, 10))
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(AcquisitionError, match="exists already"):
        import_stack(tmp_path / "good.npy", tmp_path / "out", voxel_size_zyx_nm=(10, 10, 10))


def test_planes_of_different_shapes(tmp_path: Path) -> None:
    write_tile(tmp_path / "planes" / "z0.png", STACK[0])
    write_tile(tmp_path / "planes" / "z1.png", STACK[1, :5])
    with pytest.raises(AcquisitionError, match="plane 1"):
        import_stack(tmp_path / "planes", tmp_path / "out", voxel_size_zyx_nm=(10, 10, 10))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "# Define the number of dimensions\ndim = 2\na.png; ; (0.0, 0.0)\nb.png; ; (25.5, 1.0)\n",
        "{ROOT_DIR} x\na.png\t0\t0\nb.png\t25.5\t1\n",
    ],
    ids=["fiji", "feabas"],
)
def test_tile_lists(tmp_path: Path, text: str) -> None:
    write_tile(tmp_path / "a.png", STACK[0])
    write_tile(tmp_path / "b.png", STACK[1])
    (tmp_path / "list.txt").write_text(text)
    import_tiles_csv(tmp_path / "list.txt", tmp_path, voxel_size_zyx_nm=(40, 4, 4))
    tiles = read_acquisition(tmp_path).acquisition.sections[0].tiles
    assert [(t.path, t.stage_yx_nm, t.shape_yx) for t in tiles] == [
        ("a.png", (0, 0), (20, 30)),
        ("b.png", (4, 102), (20, 30)),
    ]


def test_bad_tile_lists(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("../x.png\t0\t0\n")
    with pytest.raises(UnsafePathError, match=r"list.txt: line 1: path"):
        import_tiles_csv(tmp_path / "list.txt", tmp_path, voxel_size_zyx_nm=(40, 4, 4))
    (tmp_path / "list.txt").write_text("\nx.png\tleft\t0\n")
    with pytest.raises(AcquisitionError, match=r"list.txt: line 2"):
        import_tiles_csv(tmp_path / "list.txt", tmp_path, voxel_size_zyx_nm=(40, 4, 4))
    (tmp_path / "list.txt").write_text("# none\n")
    with pytest.raises(AcquisitionError, match="no tiles"):
        import_tiles_csv(tmp_path / "list.txt", tmp_path, voxel_size_zyx_nm=(40, 4, 4))
