"""Files of arrays with wrong bytes give their arrays, or one error that names the file."""

from __future__ import annotations

import errno
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from functions.model.errors import VolumeError
from functions.store.files import reading_arrays
from functions.store.progress import ProgressFile
from functions.store.transforms import read_arrays

FLIPS = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(flips=FLIPS, kept=st.floats(0.5, 1.5))
def test_wrong_bytes_give_arrays_or_an_error_with_the_file(
    tmp_path: Path, flips: list[tuple[float, int]], kept: float
) -> None:
    file = ProgressFile(tmp_path / "unit.npz")
    file.write({"labels": np.arange(60, dtype=np.int32).reshape(3, 4, 5), "name": np.array("abc")})
    whole = bytearray(file.path.read_bytes())
    for place, bits in flips:
        whole[int(place * len(whole))] ^= bits
    file.path.write_bytes(bytes(whole[: int(min(kept, 1.0) * len(whole))]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy and zipfile of what they find there
        for read in (file.read, lambda: read_arrays(file.path, "labels", "name")):
            try:
                read()
                told = ""
            except VolumeError as error:
                told = str(error)
            event("refused" if told else "read")
            assert not told or told.startswith(f"{file.path}: damaged (")


@pytest.mark.parametrize("error", [NotImplementedError("compression"), RuntimeError("encrypted"), EOFError()])
def test_whatever_numpy_and_zipfile_say_is_one_error(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(VolumeError, match=r"a\.npz: damaged .*; remove it$"),
        reading_arrays(tmp_path / "a.npz", remedy="remove it"),
    ):
        raise error


def test_a_file_that_is_not_there_and_one_that_the_site_keeps_back_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"none\.npz: no such file; run the step that writes it"):
        read_arrays(tmp_path / "none.npz", "labels")
    for number in (errno.ESTALE, errno.ESHUTDOWN, errno.EMFILE, errno.ENOSPC):
        with pytest.raises(OSError, match=os.strerror(number)), reading_arrays(tmp_path / "a.npz"):
            raise OSError(number, os.strerror(number))
