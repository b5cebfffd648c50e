"""Starting exactly once, over a service that fails in every way."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest

from flows.errors import InputError, RunError, ServiceError
from flows.inputs import RunRequest
from flows.records import RunStatus
from flows.watch.service import Places
from flows.watch.starting import BusyError, NotCarriedOutError, RefusedError, RunsStarter, classified
from functions.testing.microscopes import Script
from tests.flows.watching import SETTINGS, World

TAG = "section-version:stack:100:1"


class HttpError(Exception):
    def __init__(self, status):
        super().__init__(str(status))
        self.http_status = status


@pytest.fixture
def world(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=1, tile_px=8), looking=False)
    return world


def state(world):
    (start,) = world.ledger.starts()
    return start


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (HttpError(429), NotCarriedOutError),
        (HttpError(401), NotCarriedOutError),
        (HttpError(422), RefusedError),
        (HttpError(403), RefusedError),
        (HttpError(408), HttpError),
        (HttpError(500), HttpError),
        (HttpError(502), HttpError),
        (ConnectionResetError(), ConnectionResetError),
        (RunError("busy"), BusyError),
        (ServiceError("429 of the look behind the start", http_status=429), ServiceError),
        (ServiceError("no answer"), ServiceError),
        (ServiceError("no role", http_status=403), RefusedError),
        (InputError("bad"), RefusedError),
    ],
)
def test_errors_say_whether_the_run_may_have_been_started(error, kind):
    assert type(classified(error)) is kind


def test_the_tag_is_kept_before_the_service_hears_of_it(world):
    world.look(start=False)
    assert (state(world).tag, state(world).state, state(world).attempts) == (TAG, "starting", 0)
    world.again()
    world.look()
    assert (state(world).state, len(world.starter.runs[TAG])) == ("started", 1)
    assert world.starter.calls["find"] == 0


def test_a_start_that_was_carried_out_unseen_is_found_and_not_repeated(world):
    world.starter.failures = [(TimeoutError(), True)]
    world.look()
    assert (state(world).state, state(world).unsure) == ("starting", True)
    world.again()  # and the watcher is killed too
    world.look()
    assert (state(world).state, len(world.starter.runs[TAG])) == ("started", 1)


def test_a_start_that_never_arrived_is_repeated_after_the_grace_time(world):
    world.starter.failures = [(ConnectionResetError(), False)]
    world.look()
    world.rest(20, every=5)
    assert TAG not in world.starter.runs
    world.rest(20, every=5)
    assert (state(world).state, len(world.starter.runs[TAG])) == ("ended", 1)


def test_a_start_that_is_carried_out_late_is_found_within_the_grace_time(world):
    world.starter.failures = [(TimeoutError(), False)]
    world.look()
    request = state(world).request
    world.rest(10, every=5)
    world.starter.start(RunRequest.parse(request, source="late"))
    world.rest(60, every=5)
    assert (state(world).state, len(world.starter.runs[TAG])) == ("ended", 1)


def test_what_was_certainly_not_carried_out_is_repeated_at_once(world):
    world.starter.failures = [(NotCarriedOutError("429"), False)] * 3
    world.look()
    assert (state(world).state, world.starter.calls) == ("started", {"start": 4})


def test_a_killed_attempt_is_looked_up(world):
    world.look(start=False)
    world.ledger.attempt(state(world).id)  # the watcher is killed here
    world.again()
    world.look()
    assert world.starter.calls == {"find": 1}
    world.rest(40)
    assert (state(world).state, len(world.starter.runs[TAG])) == ("ended", 1)


def test_while_looking_up_fails_nothing_is_started(world):
    world.starter.failures = [(TimeoutError(), True)]
    world.starter.find_failures = [ConnectionError()] * 5
    world.look()
    world.rest(120, every=5)
    assert (state(world).state, len(world.starter.runs[TAG])) == ("ended", 1)
    assert world.starter.calls["start"] == 1


def test_a_refusal_is_told_and_tried_again_rarely(world):
    world.starter.failures = [(RefusedError("no such flow"), False)]
    world.look()
    assert state(world).error == "refused: no such flow"
    world.rest(300)
    assert world.starter.calls["start"] == 1
    world.rest(400)
    assert state(world).state == "ended"


def test_a_section_that_is_still_at_work_is_waited_for(world):
    world.starter.failures = [(BusyError("run 7 is at work on it"), False)]
    world.look()
    assert (state(world).unsure, state(world).error) == (False, "run 7 is at work on it")
    world.rest(40)
    assert state(world).state == "ended"
    assert world.starter.calls["start"] == 2


def test_after_an_outage_no_more_runs_are_at_work_than_allowed(tmp_path):
    world = World(tmp_path, settings=replace(SETTINGS, at_most=2))
    world.acquire("sbemimage", Script(sections=6, tile_px=8), looking=False)
    world.starter.failures = [(ConnectionError(), False)] * 6
    world.starter.find_failures = [ConnectionError()] * 6
    world.look()
    assert world.starter.calls["start"] == 6
    most = 0
    for _ in range(40):
        world.now += 5.0
        world.look()
        most = max(most, len(world.ledger.starts("started")))
    assert {start.state for start in world.ledger.starts()} == {"ended"}
    assert most == 2
    assert {len(runs) for runs in world.starter.runs.values()} == {1}


def test_a_start_that_this_release_cannot_read_does_not_keep_the_others(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=2, tile_px=8), looking=False)
    world.look(start=False)
    first, second = world.ledger.starts()
    with world.ledger.transaction() as db:
        db.execute(
            "UPDATE starts SET request = replace(request, '{', '{\"gone\": 1, ') WHERE id = ?", (first.id,)
        )
    world.look()
    assert list(world.starter.runs) == [second.tag]
    assert world.ledger.starts()[0].error.startswith(f"refused: start {first.tag}: ")


class ManyFolders:
    """Runs of a site, of which `tagged` tells what several folders have started."""

    def __init__(self):
        self.started = []

    def start(self, request):
        run = SimpleNamespace(id=str(len(self.started)), tags=request.tags, status=RunStatus.ACTIVE)
        self.started.append(run)
        return run

    def tagged(self, tag):
        return [run for run in reversed(self.started) if tag in run.tags]


def test_the_run_of_another_folder_of_that_name_is_not_taken_for_ours(tmp_path):
    places = [Places.of(tmp_path / name / "stack", tmp_path) for name in ("a", "b")]
    runs = ManyFolders()
    ours, theirs = (RunsStarter(runs, mark=place.mark) for place in places)
    request = RunRequest(source=str(tmp_path), tags=(TAG,))
    theirs.start(request)
    assert ours.find(TAG) is None
    started = ours.start(request)
    assert ours.find(TAG).id == started != theirs.find(TAG).id


def test_two_watchers_of_one_folder(tmp_path):
    from flows.watch.service import folder_lock

    ledger = tmp_path / "x.sqlite"
    with folder_lock(ledger), pytest.raises(RunError, match="being watched already"), folder_lock(ledger):
        pass
    with folder_lock(ledger):
        pass


def test_looking_after_one_run_that_fails_does_not_hide_the_others(tmp_path):
    world = World(tmp_path)
    world.acquire("sbemimage", Script(sections=4, tile_px=8), looking=False)
    world.look()
    world.starter.find_failures = [ConnectionError()] * 2
    world.rest(10)
    assert [start.state for start in world.ledger.starts()] == ["started", "started", "ended", "ended"]
    world.starter.find_failures = [ConnectionError()] * 3  # a service that is silent is left alone
    before = world.starter.calls["find"]
    world.rest(10)
    assert world.starter.calls["find"] == before + 2
    world.starter.find_failures = []
    world.rest(10)
    assert {start.state for start in world.ledger.starts()} == {"ended"}
