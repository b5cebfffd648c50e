"""What a mask leaves out, by codes or by any array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr

from functions.model.errors import VolumeError
from functions.model.geometry import Box
from functions.store.exclusions import published_artefacts, read_exclusion

CODES = np.arange(6, dtype=np.uint8).reshape(1, 2, 3).repeat(2, axis=0)


def stored(path: Path, values: np.ndarray) -> Path:
    array = zarr.create_array(store=str(path), shape=values.shape, dtype=values.dtype)
    array[...] = values
    return path


def test_the_codes_of_a_run_are_read_by_name(tmp_path: Path) -> None:
    found = read_exclusion(stored(tmp_path / "artefacts.zarr", CODES))
    assert found[:, :, :][0].tolist() == [[True, False, False], [True, True, True]]
    sixth = round(1 / 6, 4)
    assert found.shares() == {"outside": sixth, "fold": sixth, "crack": sixth, "charging": sixth}
    assert found.shares(rim_zyx_px=(0, 0, 1)) == {"outside": 0, "fold": 0, "crack": 0.5, "charging": 0}


def test_another_array_is_left_out_where_it_is_not_0_in_a_box(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", CODES)
    box = Box(offset_zyx=(1, 0, 0), shape_zyx=(1, 2, 2))
    found = read_exclusion(tmp_path / "mask.npy", box=box)
    assert found[:, :, :].tolist() == [[[False, True], [True, True]]]
    assert found.shares() == {"nonzero": 0.75}


def test_codes_that_do_not_exist_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VolumeError, match=r"artefacts\.zarr: codes from 0 to 9, known are 0 to 5"):
        read_exclusion(stored(tmp_path / "artefacts.zarr", np.where(CODES == 5, 9, CODES)))[:, :, :]


def test_a_volume_without_codes_has_none(tmp_path: Path) -> None:
    assert published_artefacts(tmp_path) is None
    (tmp_path / "volume.zarr/labels/artefacts").mkdir(parents=True)
    assert published_artefacts(tmp_path) == tmp_path / "volume.zarr/labels/artefacts"
    assert published_artefacts(tmp_path / "volume.zarr") == tmp_path / "volume.zarr/labels/artefacts"
