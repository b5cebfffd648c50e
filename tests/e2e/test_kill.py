"""`kill -9` of the whole site during every step costs nothing but the units that were being computed."""

from pathlib import Path

import pytest

from flows.definition import OPTIONAL
from flows.records import FLOW_STEPS
from flows.run import Runs
from flows.site import local_site
from tests.e2e import site
from tests.e2e.worlds import SMALL, write_small_acquisition

STEPS = [step for step in FLOW_STEPS if step not in OPTIONAL]
"""Those that the small acquisition goes through: agglomeration is off unless asked for."""


@pytest.fixture(scope="module")
def acquisition(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_acquisition(tmp_path_factory.mktemp("acquisition"))


@pytest.fixture(scope="module")
def undisturbed(acquisition: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("undisturbed")
    site.start(home, acquisition, parameters=SMALL).finish()
    run = Runs(local_site(home), home=home).list()[0]
    assert run.published_path
    return site.tree_digest(Path(run.published_path) / "volume.zarr")


def test_killed_in_every_step_the_published_volume_is_the_same_to_the_byte(
    acquisition: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    runs = Runs(local_site(tmp_path), home=tmp_path)
    run_id = ""
    killed_in: list[str] = []
    finished_before: dict[tuple[str, str, str], int] = {}
    for step in STEPS:
        process = site.start(tmp_path, acquisition, parameters=SMALL, run_id=run_id)
        alive = site.wait_until_begun(process, tmp_path, acquisition.name, step)
        assert alive, (step, process.finish())
        process.kill()
        killed_in.append(step)
        run_id = runs.list()[0].id
        work = Path(runs.list()[0].work_path)
        begun = site.attempts(work)
        for unit in site.done(work):
            assert finished_before.setdefault(unit, begun[unit]) == begun[unit], f"{unit} was redone"
    site.start(tmp_path, acquisition, parameters=SMALL, run_id=run_id).finish()

    record, steps = runs.show(run_id)
    assert killed_in == STEPS
    assert len(runs.list()) == 1
    begun = site.attempts(Path(record.work_path))
    assert {unit: begun[unit] for unit in finished_before} == finished_before
    assert next(step.figures["segments"] for step in steps if step.name == "finish") > 5
    assert record.published_path
    assert site.tree_digest(Path(record.published_path) / "volume.zarr") == undisturbed
