"""The benchmark of the host runs, and both engines do the same there."""

import numpy as np

from tests.benchmarks.ffn_engine import Setting, Timing, figures, run


def test_both_engines_flood_the_same_cells() -> None:
    serial, batched = Timing(), Timing()
    run(Setting(batch=0, subvolumes=1, objects=1), serial)
    setting = Setting(batch=8, subvolumes=1, objects=8)
    run(setting, batched)
    (expected,), (found,) = serial.found, batched.found
    assert expected.counters.objects == 8
    assert np.array_equal(found.labels, expected.labels)
    assert np.array_equal(found.moves_zyx, expected.moves_zyx)
    line = figures(setting, batched)
    assert line["fovs"] == serial.fovs == expected.counters.fovs > 500
    assert line["discarded_fovs"] == 0
    assert 0.3 < line["tensor_share"] < 1.0
    assert 0.9 < line["batch_fill"] <= 1.0
    assert line["host_ms_per_row_p10"] > 0
    assert 0 < line["host_ms_per_fov"] == line["host_ms_per_fov_median"]
