"""All checks in order; each needs others first, and runs whatever became of the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from globus_sdk import GlobusError

from flows.doctor import compute, deployment, storage
from flows.doctor.visit import Answer, Finding, Visit, failed, skipped
from flows.errors import FlowsError
from flows.remote import explain
from functions.model.errors import PetavoxelError


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A check and those that must have gone well before it makes sense."""

    name: str
    run: Callable[[Visit], Answer]
    needs: tuple[str, ...] = ()


CHECKS = (
    Check(name="token", run=deployment.token),
    Check(name="scopes", run=deployment.scopes, needs=("token",)),
    Check(name="lock", run=deployment.lock),
    Check(name="flow", run=deployment.flow, needs=("token", "lock")),
    Check(name="search", run=deployment.search, needs=("token",)),
    Check(name="instrument", run=storage.instrument, needs=("token",)),
    Check(name="scratch", run=storage.scratch, needs=("token",)),
    Check(name="publication", run=storage.publication, needs=("token",)),
    Check(name="functions", run=compute.functions, needs=("token", "lock")),
    Check(name="endpoint", run=compute.endpoint, needs=("token",)),
    Check(name="worker", run=compute.worker, needs=("endpoint", "functions")),
    Check(name="versions", run=compute.versions, needs=("worker",)),
    Check(name="accelerators", run=compute.accelerators, needs=("worker",)),
    Check(name="paths", run=storage.paths, needs=("worker", "scratch")),
    Check(name="space", run=storage.space, needs=("worker", "scratch")),
    Check(name="removed", run=storage.removed),
)


def examine(visit: Visit) -> Iterator[Finding]:
    """A finding for each check, as soon as it is known."""
    good: set[str] = set()
    for check in CHECKS:
        missing = [name for name in check.needs if name not in good]
        answer = skipped(f"needs {', '.join(missing)}") if missing else _asked(check, visit)
        if answer.status == "ok":
            good.add(check.name)
        yield Finding(check=check.name, status=answer.status, message=answer.message, remedy=answer.remedy)


def _asked(check: Check, visit: Visit) -> Answer:
    """The check's answer; what it raises is an answer, too."""
    try:
        return check.run(visit)
    except GlobusError as error:
        told = explain(error)
        return failed(told.message, told.remedy)
    except (FlowsError, PetavoxelError) as error:
        return failed(str(error).removesuffix(f"; {error.remedy}"), error.remedy)
    except Exception as error:
        return failed(f"{type(error).__name__}: {error}", "report it with this line")
