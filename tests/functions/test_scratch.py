"""What is put aside comes back as it was, from memory and from files, and files do not stay."""

from pathlib import Path

import numpy as np
import pytest

from functions.model.errors import VolumeError
from functions.model.scratch import Held
from functions.model.scratch import Scratch as Kept
from functions.store.scratch import Scratch

ARRAYS = {
    "empty": np.zeros((0, 3)),
    "numbers": np.arange(7, dtype=np.int32),
    "one": np.array(5, dtype=np.int64),
    "columns": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
}


@pytest.mark.parametrize("store", ["held", "files"])
def test_arrays_come_back_as_they_were(tmp_path: Path, store: str) -> None:
    kept: Kept = Held() if store == "held" else Scratch(tmp_path / "scratch")
    kept.write("group/some", ARRAYS)
    kept.write("alone", {"numbers": np.ones(2)})
    for names in (("columns",), ("one", "empty"), tuple(ARRAYS)):
        found = kept.read("group/some", names)
        assert list(found) == list(names)
        for name in names:
            np.testing.assert_array_equal(found[name], ARRAYS[name])
            assert found[name].dtype == ARRAYS[name].dtype
            assert found[name].flags.f_contiguous == ARRAYS[name].flags.f_contiguous
    kept.write("group/some", {"numbers": np.zeros(1)})
    assert kept.read("group/some", ("numbers",))["numbers"].tolist() == [0.0]
    assert kept.read("alone", ("numbers",))["numbers"].tolist() == [1.0, 1.0]
    with pytest.raises(KeyError):
        kept.read("group/some", ("columns",))


def test_what_is_held_cannot_be_changed_by_its_reader() -> None:
    mine = np.arange(3.0)
    kept = Held()
    kept.write("a", {"x": mine})
    with pytest.raises(ValueError, match="read-only"):
        kept.read("a", ("x",))["x"][0] = 9.0
    mine += 1.0  # the writer's own array is not locked


def test_a_folder_is_emptied_first_and_removed_last(tmp_path: Path) -> None:
    path = tmp_path / "scratch"
    Scratch(path).write("old", {"x": np.ones(1)})
    with Scratch(path) as kept:
        assert not path.exists()
        with pytest.raises(VolumeError, match="no such file"):
            kept.read("old", ("x",))
        kept.write("new", {"x": np.ones(1)})
        assert path.is_dir()
    assert not path.exists()


def test_who_computes_the_same_reads_nothing_of_another(tmp_path: Path) -> None:
    """The later one goes on, whatever the earlier one does; that one fails, and leaves nothing behind."""
    path = tmp_path / "scratch"
    with Scratch(path) as earlier:
        earlier.write("group/round", {"x": np.array([8])})
        with Scratch(path) as later:
            later.write("group/round", {"x": np.array([1])})
            with pytest.raises(VolumeError, match="no such file"):
                earlier.read("group/round", ("x",))
            earlier.write("group/round", {"x": np.array([9])})
            earlier.__exit__()
            assert later.read("group/round", ("x",))["x"].tolist() == [1]
    assert not path.exists()


def test_a_damaged_file_is_told_of(tmp_path: Path) -> None:
    with Scratch(tmp_path / "scratch") as kept:
        kept.write("some", {"x": np.arange(100)})
        (written,) = (path for path in tmp_path.rglob("some"))
        written.write_bytes(written.read_bytes()[:-1])
        with pytest.raises(VolumeError, match="run the step again"):
            kept.read("some", ("x",))
