"""Recipes parse strictly: every mistake is told with file and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffn.config import ConfigError
from functions.testing.phantom_training import PhantomVolumes
from functions.training.entries import NpzVolume, ZarrVolume, parse_box
from functions.training.recipe import load_recipe
from tests.functions.training_files import RECIPE

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "functions" / "testing" / "demo_network.toml"
FIB25 = ROOT / "tests" / "benchmarks" / "fib25_recipe.toml"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def test_a_recipe_becomes_values(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path, RECIPE))
    (volume,) = recipe.volumes
    assert isinstance(volume, NpzVolume)
    assert (volume.image, volume.labels, volume.downsample_zyx) == ("raw", "gt", (1, 1, 1))
    assert recipe.data == tmp_path / "data"
    assert recipe.validation.every_steps == 20
    assert recipe.training.network.fov_zyx == (7, 7, 7)
    assert load_recipe(recipe.path, data=Path("/elsewhere")).data == Path("/elsewhere")


def test_the_recipes_shipped_parse() -> None:
    demo = load_recipe(DEMO)
    assert isinstance(demo.volumes[0], PhantomVolumes)
    assert len(demo.volumes[0].seeds) == 8
    fib25 = load_recipe(FIB25)
    (train,), (held,) = fib25.volumes, fib25.validation_volumes
    assert isinstance(train, NpzVolume)
    assert isinstance(held, NpzVolume)
    a, b = parse_box(train.box), parse_box(held.box)
    assert a is not None
    assert b is not None
    assert a.intersect(b).voxels == 0  # nothing is judged that was trained on


def test_a_recipe_without_validation_and_with_several_kinds(tmp_path: Path) -> None:
    volumes = """
[[volumes]]
kind = "phantom"
seeds = [1, 2]
[[volumes]]
kind = "zarr"
path = "run"
image = "image.zarr"
ignore_labels = [99]
[training]
voxel_size_zyx_nm = [8, 8, 8]
"""
    recipe = load_recipe(written(tmp_path, volumes))
    assert recipe.validation_volumes == ()
    assert [type(v) for v in recipe.volumes] == [PhantomVolumes, ZarrVolume]
    assert recipe.training.voxel_size_zyx_nm == (8.0, 8.0, 8.0)
    assert recipe.data == tmp_path / "."


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch = 8", "batch = 0", r"training\.optimiser\.batch: must be at least 1"),
        ("batch = 8", "bach = 8", r"training\.optimiser\.bach: unknown field"),
        ('kind = "npz"', 'kind = "hdf5"', r"volumes\[0\]\.kind: 'hdf5' is not one of phantom, npz, zarr"),
        ('kind = "npz"', "", r"volumes\[0\]\.kind: None is not one of"),
        ('image = "raw"', "image = 3", r"volumes\[0\]\.image: expected str, found 3"),
        ("0:26,0:34,0:34", "0:26,0:34", r"volumes\[0\]\.box: '0:26,0:34' is not z0:z1,y0:y1,x0:x1"),
        ("0:26,0:34,0:34", "5:5,0:34,0:34", r"volumes\[0\]\.box: .*start < end"),
        (
            'labels = "gt"',
            'labels = "gt"\ndownsample_zyx = [0, 1, 1]',
            r"volumes\[0\]\.downsample_zyx: must be",
        ),
        (
            'labels = "gt"',
            'labels = "gt"\nignore_labels = [0]',
            r"volumes\[0\]\.ignore_labels: \[0\] are back",
        ),
        ('labels = "gt"', 'labels = "gt"\nshuffle = true', r"volumes\[0\]\.shuffle: unknown field"),
        ("every_steps = 20", "every_steps = 0", r"validation\.every_steps: must be at least 1"),
        ("[validation]", "[validate]", r"validate: unknown field"),
        ('data = "data"', "data = 5", r"data: expected the path of a folder, found 5"),
        ("[training.network]", "[training.net]", r"training\.net: unknown field"),
    ],
)
def test_errors_name_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(ConfigError, match=r"recipe\.toml: " + message):
        load_recipe(written(tmp_path, RECIPE.replace(old, new, 1)))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recipe\.toml: not TOML"):
        load_recipe(written(tmp_path, "[volumes"))
    with pytest.raises(ConfigError, match="training: is missing"):
        load_recipe(written(tmp_path, '[[volumes]]\nkind = "phantom"\nseeds = [1]\n'))
    with pytest.raises(ConfigError, match=r"volumes: expected \[\[volumes\]\] tables"):
        load_recipe(written(tmp_path, "[training]\nvoxel_size_zyx_nm = [8, 8, 8]\n"))
    with pytest.raises(ConfigError, match=r"validation\.volumes: expected"):
        load_recipe(written(tmp_path, RECIPE.replace("[[validation.volumes]]", "[validation.volumes]")))
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "none.toml")
