"""The loopback's web page: the list of runs, and one run with its states on a time line. Nothing to click on
changes anything; all is rendered here and needs no other server.

    /                  runs, newest first
    /runs/{id}         one run: time line, steps, log
    /runs/{id}/view/   the volume it published, in the viewer of `flows.local.viewer`, and its report
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path

import jinja2
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from flows.errors import RunError
from flows.local.embedded import EmbeddedSite
from flows.local.http.calls import World
from flows.local.store import RunHead
from flows.records import LogEntry, RunStatus
from functions.model.errors import VolumeError

PAGE = 50
_ENDS = {"ActionCompleted": "", "ActionFailed": "failed"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Part of a lane in which its state was at work; `left` and `width` in percent of the run."""

    left: float
    width: float
    kind: str
    """Empty, `failed` or `active`."""
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """One state on the time line; a state that was left and entered again has several spans."""

    state: str
    seconds: float
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A run as the page names it."""

    id: str
    status: str
    label: str
    flow_title: str
    tags: tuple[str, ...]
    created: str
    seconds: float
    error: str | None


def routes(world: World) -> list[BaseRoute]:
    """The page's routes."""
    site = world.site

    async def home(request: Request) -> Response:
        below = request.query_params.get("below", "")
        return HTMLResponse(
            await run_in_threadpool(runs_page, site, int(below) if below.isdecimal() else None)
        )

    async def run(request: Request) -> Response:
        try:
            return HTMLResponse(await run_in_threadpool(run_page, site, request.path_params["id"]))
        except RunError as error:
            return PlainTextResponse(str(error), status_code=404)

    return [
        Route("/", home),
        Route("/runs/{id}", run),
        Mount("/runs/{id}/view", app=_viewer(site)),
    ]


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def runs_page(site: EmbeddedSite, below: int | None = None) -> str:
    """The list of runs, newest first, from position `below`."""
    heads = site.store.heads(below=below, limit=PAGE + 1)
    shown = [_shown(site, head) for head in heads[:PAGE]]
    return (
        _templates()
        .get_template("runs.html.j2")
        .render(
            title="Runs",
            refresh=any(run.status == RunStatus.ACTIVE for run in shown),
            home=site.home,
            runs=shown,
            below=heads[PAGE - 1].position if len(heads) > PAGE else None,
        )
    )


def run_page(site: EmbeddedSite, run_id: str) -> str:
    """One run.

    Raises:
        RunError: no such run.
    """
    stored = site.store.load(run_id)
    run = _shown(site, stored.head)
    entries = site.store.logs(run_id)
    parents = [tag.removeprefix("parent:") for tag in run.tags if tag.startswith("parent:")]
    waiting = stored.hold is not None and stored.head.status is RunStatus.INACTIVE
    return (
        _templates()
        .get_template("run.html.j2")
        .render(
            title=run.label or run_id,
            refresh=run.status == RunStatus.ACTIVE,
            run=run,
            steps=site.store.steps(run_id),
            entries=entries,
            lanes=time_line(entries, until=None if stored.head.status.ended else time.time()),
            parent=parents[0] if parents else None,
            published=stored.published,
            hold=stored.hold["description"] if waiting and stored.hold else None,
        )
    )


def _shown(site: EmbeddedSite, head: RunHead) -> Shown:
    status = RunStatus.INTERRUPTED if site.interrupted(head) else head.status
    end = time.time() if status is RunStatus.ACTIVE else _seconds(head.updated)
    return Shown(
        id=head.id,
        status=str(status),
        label=head.label,
        flow_title=head.flow_title,
        tags=head.tags,
        created=head.created,
        seconds=max(end - _seconds(head.created), 0.0),
        error=head.error if status is RunStatus.FAILED else None,
    )


def time_line(entries: list[LogEntry], *, until: float | None) -> list[Lane]:
    """The states that were at work, in the order in which they began.

    Args:
        until: now, for a run that has not ended (seconds since the epoch); None for one that has.
    """
    if not entries:
        return []
    first = _seconds(entries[0].time)
    last = until or _seconds(entries[-1].time)
    whole = max(last - first, 1e-3)
    lanes: dict[str, Lane] = {}
    began: dict[str, float] = {}
    for entry in entries:
        if entry.code == "ActionStarted":
            began[entry.state_name] = _seconds(entry.time)
            lanes.setdefault(entry.state_name, Lane(state=entry.state_name, seconds=0.0, spans=()))
        elif entry.code in _ENDS and entry.state_name in began:
            start, end = began.pop(entry.state_name), _seconds(entry.time)
            lanes[entry.state_name] = _longer(
                lanes[entry.state_name], start - first, end - first, whole, _ENDS[entry.code]
            )
    for state, start in began.items():  # nobody said that these ended
        kind = "active" if until else "failed"
        lanes[state] = _longer(lanes[state], start - first, last - first, whole, kind)
    return list(lanes.values())


def _longer(lane: Lane, begin: float, end: float, whole: float, kind: str) -> Lane:
    """The lane with one more span; times in seconds since the run's start."""
    seconds = end - begin
    span = Span(
        left=100 * begin / whole,
        width=100 * seconds / whole,
        kind=kind,
        title=f"{lane.state}: {seconds:.1f} s, {begin:.1f} s after the start",
    )
    return replace(lane, seconds=lane.seconds + seconds, spans=(*lane.spans, span))


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _viewer(site: EmbeddedSite) -> ASGIApp:
    """The viewer of whichever run the path names."""

    async def view(scope: Scope, receive: Receive, send: Send) -> None:
        from flows.local.viewer import application

        try:
            stored = await run_in_threadpool(site.store.load, scope["path_params"]["id"])
            if stored.published is None:
                raise RunError(f"{stored.head.id}: nothing is published", remedy="let the run go on")
            app: ASGIApp = application(Path(stored.published))
        except (RunError, VolumeError) as error:
            app = PlainTextResponse(str(error), status_code=404)
        # the viewer's own addresses begin where it is mounted
        await app({**scope, "app_root_path": scope["root_path"]}, receive, send)

    return view
