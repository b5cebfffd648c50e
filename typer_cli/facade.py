"""From command-line words to the runs facade: the site's runs, a request, a bundle's folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from typer_cli.settings import parse_sections, parse_settings

if TYPE_CHECKING:
    from flows.inputs import RunRequest
    from flows.run import Runs
    from flows.site import Site
    from functions.store.run import Run


def runs_of(
    site: str, *, workers: int | None = None, engine: str | None = None, engine_config: Path | None = None
) -> Runs:
    """The runs of a site."""
    from flows.run import Runs
    from flows.site import home_folder, load_site

    home = home_folder()
    loaded = load_site(site, home=home, workers=workers)
    return Runs(with_engine(loaded, engine=engine, engine_config=engine_config), home=home)


def with_engine(site: Site, *, engine: str | None, engine_config: Path | None) -> Site:
    """The site with what the command line says about its engine."""
    named = {
        "engine": str(engine) if engine else None,
        "engine_config": str(engine_config.expanduser().resolve()) if engine_config else None,
    }
    return site.model_copy(update={name: value for name, value in named.items() if value is not None})


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
) -> RunRequest:
    """What the user asks for, parsed once."""
    from flows.inputs import RunRequest

    words = {"start_at": start_at, "stop_after": stop_after, "on_gate_fail": on_gate_fail}
    return RunRequest.parse(
        {
            "source": str(folder),
            "label": label,
            "sections": parse_sections(sections),
            "parameters": parse_settings(settings or []),
            **{name: value for name, value in words.items() if value is not None},
        },
        source="run start",
    )


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
