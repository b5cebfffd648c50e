"""Every way to start and to share: the same labels, and no work is added by sharing it."""

from pathlib import Path

import pytest

from functions.model.parameters import FanOutParameters
from functions.store.run import Run
from tests.benchmarks.phantom_stack import parameters_of, write_stack
from tests.benchmarks.scaling import compared, drawn
from tests.flows.engine_kinds import KINDS

SUBVOLUME, OVERLAP = (24, 48, 48), (16, 16, 16)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("volume")
    stack = write_stack(
        folder, "stack", counts_zyx=(2, 2, 3), subvolume_zyx_px=SUBVOLUME, overlap_zyx_px=OVERLAP
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        return drawn(folder, parameters_of(SUBVOLUME, OVERLAP), stack)


@pytest.fixture(scope="module")
def expected(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Labels by one process that was dealt everything beforehand."""
    sharing = FanOutParameters(claiming=False)
    parameters = run.spec.parameters.model_copy(update={"fan_out": sharing})
    dealt = Run(run.spec.model_copy(update={"parameters": parameters}))
    _, digests = compared("process-pool", dealt, tmp_path_factory.mktemp("dealt"), repeats=1)
    assert digests[0] == digests[1]
    return digests[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_one_and_two_workers_give_the_labels_of_dealt_shards(
    name: str, run: Run, expected: dict[str, str], tmp_path: Path
) -> None:
    found, digests = compared(name, run, tmp_path, repeats=1)
    assert len(expected) == 12
    assert all(digest == expected for digest in digests)
    assert [sum(row["computed"]) for n in (1, 2) for row in found["runs"][n]] == [12, 12]
    assert min(found["runs"][2][0]["computed"]) >= 3  # shared, not done by one
    assert found["cpu_efficiency"] > 0.6  # of so few subvolumes one more or less is much
