"""From command-line words to the runs facade: the site's runs, a request, a bundle's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer_cli.settings import parse_sections, parse_settings

if TYPE_CHECKING:
    from flows.auth import Role
    from flows.doctor import Visit
    from flows.inputs import RunRequest
    from flows.run import Runs
    from flows.site import Site
    from functions.store.run import Run


def runs_of(
    site: str,
    *,
    workers: int | None = None,
    engine: str | None = None,
    engine_config: Path | None = None,
    role: Role = "operator",
) -> Runs:
    """The runs of a site; those of a live one by whoever may start, cancel and resume them there.

    Args:
        role: at a live site; `trigger` is the microscope's client, which only starts and looks.

    Raises:
        SiteError: an engine is named for a live site.
        DeployError: a live site whose flow is not deployed.
    """
    from flows.run import Runs
    from flows.site import home_folder, load_site

    home = home_folder()
    profile = with_engine(
        load_site(site, home=home, workers=workers), engine=engine, engine_config=engine_config
    )
    if profile.embedded:
        return Runs(profile, home=home)
    from flows.auth import connect
    from flows.lock import deployed, deployed_site, lock_path

    lock = deployed(lock_path(site, home=home))
    assert lock.flow
    return Runs(
        deployed_site(profile, lock),
        home=home,
        service=connect(profile, role, home),
        flow_id=lock.flow.id,
        managers=profile.people.managers,
        monitors=profile.people.monitors,
    )


def with_engine(site: Site, *, engine: str | None, engine_config: Path | None) -> Site:
    """The site with what the command line says about its engine.

    Raises:
        SiteError: a live site has an endpoint, and that an engine of its own.
    """
    from flows.errors import SiteError

    named = {
        "engine": str(engine) if engine else None,
        "engine_config": str(engine_config.expanduser().resolve()) if engine_config else None,
    }
    update = {name: value for name, value in named.items() if value is not None}
    if update and not site.embedded:
        raise SiteError(
            f"site {site.name}: its Compute endpoint has an engine of its own",
            remedy="leave --engine and --engine-config out; see `petavoxel site endpoint-config`",
        )
    return site.model_copy(update=update)


def work_of(run_id: str, site: str) -> Run:
    """What a run has on scratch.

    Raises:
        RunError: no such run.
    """
    from functions.store.run import Run
    from functions.tasks import RunSpec

    record, _ = runs_of(site).show(run_id)
    return Run(RunSpec.parse(record.input["input"]["run"], source=f"run {record.id}"))


def request_of(
    folder: Path,
    *,
    start_at: str | None,
    stop_after: str | None,
    sections: str | None,
    settings: list[str] | None,
    label: str = "",
    on_gate_fail: str | None = None,
    memory_gib: float | None = None,
    outbox: Path | None = None,
) -> RunRequest:
    """What the user asks for, parsed once, with documents instead of a microscope's own."""
    from flows.inputs import RunRequest
    from flows.scrub import scrubbed
    from flows.site import home_folder
    from flows.watch.service import Places

    words = {"start_at": start_at, "stop_after": stop_after, "on_gate_fail": on_gate_fail}
    request = RunRequest.parse(
        {
            "source": str(folder),
            "label": label,
            "sections": parse_sections(sections),
            "parameters": parse_settings(settings or []),
            "memory_gib": memory_gib,
            **{name: value for name, value in words.items() if value is not None},
        },
        source="run start",
    )
    return scrubbed(request, outbox=Places.of(folder, home_folder(), outbox=outbox).outbox)


def visit_of(name: str, *, limit_s: float) -> Visit:
    """What the doctor of a site needs, by whoever may check it.

    Raises:
        SiteError: the embedded site, which has nothing to check.
    """
    from flows.auth import connect
    from flows.doctor import Visit
    from flows.errors import SiteError
    from flows.lock import lock_path, read_lock
    from flows.site import home_folder, load_site

    home = home_folder()
    site = load_site(name, home=home)
    if site.embedded:
        raise SiteError("site local: is this machine; nothing to check", remedy="name a profile")
    lock = read_lock(lock_path(name, home=home))
    return Visit(site=site, lock=lock, service=connect(site, "checker", home), limit_s=limit_s)


def bundle_of(run_or_path: str, site: str) -> Path:
    """The folder of a published volume: named itself, or by its run.

    Raises:
        RunError: no such run, or it has published nothing.
    """
    from flows.errors import RunError

    path = Path(run_or_path)
    if path.is_dir():
        return path
    record, _ = runs_of(site).show(run_or_path)
    if record.published_path is None:
        raise RunError(
            f"run {record.id}: nothing is published (it is {record.status})",
            remedy=f"see `petavoxel run show {record.id}`",
        )
    return Path(record.published_path)
