"""The doctor: each line ok, failed with a remedy, or skipped with a reason; nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import responses

from flows.deploy import Deployer
from flows.doctor import Finding, Visit, examine
from flows.doctor.examine import CHECKS
from flows.site import Site
from tests.flows.doctor_fake import FakeSite
from tests.flows.globus_fake import FLOWS, service
from tests.flows.sites import filled_site, some_id


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """A site whose three collections are folders here."""
    site = filled_site(tmp_path / "home")
    folders = {name: tmp_path / "globus" / name for name in ("instrument", "scratch", "publication")}
    for folder in folders.values():
        folder.mkdir(parents=True)
    places = {
        name: getattr(site, name).model_copy(update={"base_path": str(folders[name])}) for name in folders
    }
    return site.model_copy(update={**places, "search_index": some_id("index")})


@pytest.fixture
def fake(site: Site) -> Iterator[FakeSite]:
    fake = FakeSite(site=site)
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        fake.install(mock)
        yield fake


@pytest.fixture
def visit(site: Site, fake: FakeSite, tmp_path: Path) -> Visit:
    """A visit to the site after its flow was deployed."""
    lock = Deployer(site=site, service=service(), path=tmp_path / "lab.lock.json").deploy()
    fake.versions |= {"parsl": "2026.10.26"}
    return Visit(
        site=site, lock=lock, service=service(), limit_s=60, clock=lambda: fake.now, sleep=fake.sleep
    )


def found(visit: Visit) -> dict[str, Finding]:
    """All findings by check."""
    return {finding.check: finding for finding in examine(visit)}


def left_over(site: Site) -> list[Path]:
    """What a visit left on the collections."""
    return [p for c in (site.scratch, site.publication) for p in Path(c.base_path).iterdir()]


def test_a_healthy_site_is_ok_and_left_as_it_was(site, visit, fake):
    findings = found(visit)
    assert {f.check: f.status for f in findings.values()} == {check.name: "ok" for check in CHECKS}
    assert findings["removed"].message == "2 marker folders removed"
    assert left_over(site) == []
    assert f"petavoxel {visit.lock.package}" in findings["versions"].message
    assert "parsl 2026.10.26" in findings["versions"].message
    assert fake.submitted["user_endpoint_config"] == site.compute.user_endpoint_config
    assert fake.submitted["result_serializers"] == ["globus_compute_sdk.serialize.JSONData"]
    assert fake.writes.count("mkdir") == 2


def test_every_failure_has_a_remedy_and_stops_no_other(visit, fake, site):
    """Transfer refuses everything: what does not need it is still told."""
    fake.broken["transfer.api"] = (403, "PermissionDenied")
    findings = found(visit)
    assert {n for n, f in findings.items() if f.status == "failed"} == {
        "instrument",
        "scratch",
        "publication",
    }
    assert all(f.remedy for f in findings.values() if f.status == "failed")
    assert "Globus Transfer answered 403 PermissionDenied" in findings["scratch"].message
    assert findings["paths"].status == "skipped"
    assert findings["paths"].message == "needs scratch"
    assert findings["worker"].status == findings["search"].status == findings["flow"].status == "ok"


@pytest.mark.parametrize(
    ("broken", "failed", "said", "remedy"),
    [
        ({"/status": (404, "ENDPOINT_NOT_FOUND")}, "endpoint", "404 ENDPOINT_NOT_FOUND", "check the id"),
        ({"/mkdir": (403, "PermissionDenied")}, "scratch", "403", "role or consent"),
        ({"/v1/index": (404, "NotFound.NoIndex")}, "search", "Search answered 404", "check the id"),
        ({"/v2/functions": (401, "UNAUTHORIZED")}, "functions", "Compute answered 401", "log in again"),
    ],
    ids=["endpoint", "collection", "index", "functions"],
)
def test_a_refusal_is_told_with_what_to_do(visit, fake, broken, failed, said, remedy):
    fake.broken |= broken
    finding = found(visit)[failed]
    assert finding.status == "failed"
    assert said in finding.message
    assert remedy in finding.remedy


def test_a_login_that_globus_does_not_take(visit, fake):
    body = {"error": {"code": "AUTHENTICATION_ERROR", "detail": "token expired"}}
    fake.mock.replace("GET", f"{FLOWS}/flows", json=body, status=401)
    findings = found(visit)
    assert findings["token"].message == "Globus Flows answered 401 AUTHENTICATION_ERROR: token expired"
    assert "log in again" in findings["token"].remedy
    assert findings["scratch"].message == "needs token"


def test_an_endpoint_that_is_down(visit, fake):
    fake.status = "offline"
    findings = found(visit)
    assert findings["endpoint"].status == "failed"
    assert "globus-compute-endpoint start" in findings["endpoint"].remedy
    assert findings["worker"].message == "needs endpoint"
    assert fake.submitted == {}


def test_jobs_that_die_at_start_for_ever_are_recognised(visit, fake):
    """A broken worker_init: the batch system starts job after job, workers come and go, the task waits."""
    fake.runs_after = 10**9
    fake.workers = [0, 4, 0, 0, 4, 0, 4, 0]
    finding = found(visit)["worker"]
    assert finding.status == "failed"
    assert "jobs came and went" in finding.message
    assert "worker_init" in finding.remedy
    assert "daemon.pid" in finding.remedy
    assert sum(fake.slept) == pytest.approx(60)


def test_no_worker_at_all_is_a_queue_or_a_dying_job(visit, fake):
    fake.runs_after = 10**9
    fake.workers = [0]
    finding = found(visit)["worker"]
    assert "no worker came" in finding.message
    assert "--wait-s" in finding.remedy
    assert "worker_init" in finding.remedy


def test_workers_that_do_not_take_the_task(visit, fake):
    fake.runs_after = 10**9
    fake.workers = [0, 4, 4]
    finding = found(visit)["worker"]
    assert "though 4 workers are there" in finding.message
    assert "parsl" in finding.remedy


def test_a_worker_that_comes_late_is_waited_for(visit, fake):
    fake.runs_after = 8
    fake.workers = [0, 0, 0, 4]
    assert found(visit)["worker"].message == "a worker answered after 40 s"


@pytest.mark.parametrize(
    ("exception", "remedy"),
    [
        ("Traceback ...\nModuleNotFoundError: No module named 'functions'", "install petavoxel"),
        ("Traceback ...\nparsl.executors.high_throughput.errors.WorkerLost: ...", "Python's minor version"),
        ("", "endpoint's log"),
    ],
)
def test_a_probe_that_fails_says_why(visit, fake, exception, remedy):
    fake.exception = exception or " "
    finding = found(visit)["worker"]
    assert finding.status == "failed"
    assert remedy in finding.remedy
    if exception:
        assert exception.splitlines()[-1] in finding.message


def test_another_release_on_the_worker(visit, fake):
    fake.versions["petavoxel"] = "0.0.1"
    finding = found(visit)["versions"]
    assert finding.message == f"the worker has petavoxel 0.0.1, deployed was {visit.lock.package}"
    assert f"install petavoxel {visit.lock.package}" in finding.remedy


def test_no_accelerator_where_some_are_asked_for(visit, fake):
    fake.figures = {"cuda_devices": 0, "xpu_devices": 0}
    finding = found(visit)["accelerators"]
    assert finding.status == "failed"
    assert "4 a node are asked for" in finding.message
    fake.figures = {"cuda_devices": 0, "xpu_devices": 1}
    assert found(visit)["accelerators"].status == "ok"


def test_a_wrong_base_path_is_found(visit, fake, site):
    """The collection shows the marker, the worker does not see it where the profile says."""
    fake.hidden = True
    findings = found(visit)
    assert findings["paths"].status == "failed"
    assert "scratch.base_path" in findings["paths"].remedy
    assert findings["space"].status == "failed"
    assert findings["removed"].status == "ok"
    assert left_over(site) == []


def test_little_room_is_told(visit, fake):
    fake.free_gib = 12.0
    finding = found(visit)["space"]
    assert finding.status == "failed"
    assert finding.message == "12 GiB free on scratch"


def test_functions_that_are_gone_are_named(visit, fake):
    fake.lost_functions = {"stitch", "segment"}
    finding = found(visit)["functions"]
    assert "stitch, segment" in finding.message
    assert "callers_group" in finding.remedy


def test_a_flow_that_differs(visit, fake, site):
    fake.change(visit.lock.flow.id, subtitle="by hand")
    finding = found(visit)["flow"]
    assert "was changed elsewhere" in finding.message
    assert "--take-over" in finding.remedy


def test_a_profile_that_changed_since(visit, site):
    people = site.people.model_copy(update={"starters": ()})
    visit.site = site.model_copy(update={"people": people})
    finding = found(visit)["flow"]
    assert finding.message == "profile or package have changed since the deployment"
    assert finding.remedy == "petavoxel flow deploy"


def test_an_index_that_may_only_be_read(visit, fake, site):
    fake.permissions = ["reader"]
    assert "may not write" in found(visit)["search"].message
    visit.site = site.model_copy(update={"search_index": None})
    assert found(visit)["search"].status == "skipped"


def test_before_the_first_deployment(visit):
    visit.lock = None
    findings = found(visit)
    assert findings["lock"].remedy == "petavoxel flow deploy"
    assert [n for n, f in findings.items() if f.status == "skipped"] == [
        "flow", "functions", "worker", "versions", "accelerators", "paths", "space",
    ]  # fmt: skip
    assert findings["scratch"].status == findings["removed"].status == "ok"


def test_a_probe_that_is_not_registered(visit):
    visit.lock = visit.lock.model_copy(update={"functions": {}})
    findings = found(visit)
    assert findings["functions"].message == "none is registered"
    assert findings["worker"].status == "skipped"
    assert findings["search"].status == "ok"


def test_an_answer_that_nobody_expected_is_a_line_too(visit, fake):
    fake.versions["python"] = 3  # not what ProbeResult takes
    finding = found(visit)["worker"]
    assert finding.status == "failed"
    assert "probe: paths.python" in finding.message
