"""A small box of FIB-25 through every step: as good as google/ffn's published segmentation of it."""

from pathlib import Path

import pytest

from tests.benchmarks.fib25 import measure
from tests.benchmarks.fib25_block import parse_box

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not DATA.exists(), reason="the FIB-25 block is not there")
def test_eight_subvolumes_of_a_small_box(tmp_path: Path) -> None:
    found = measure(
        DATA,
        tmp_path,
        parse_box("60:140,90:170,90:170"),
        segment={
            "mode": "model",
            "subvolume_zyx_px": (64, 64, 64),
            "overlap_zyx_px": (48, 48, 48),
        },
        groups={},
        workers=1,
    )
    assert found["image_kept"]
    assert found["subvolumes"] == 8
    assert found["fovs"] > 500
    assert found["voi_sum_fill_ratio"] <= 1.1
    assert found["ours"]["labelled_fraction"] > 0.95
