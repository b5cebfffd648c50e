"""Collections: reachable, writable, and the same folder to the workers as to the collection."""

from __future__ import annotations

from pathlib import PurePosixPath

from flows.doctor.visit import Answer, Visit, failed, ok
from flows.site import Collection

WAIT_S = 120
LEAST_FREE_GIB = 50.0
"""Less than this on scratch holds no acquisition worth a flow."""


def instrument(visit: Visit) -> Answer:
    """The flow only reads there."""
    return _listed(visit, visit.site.instrument)


def scratch(visit: Visit) -> Answer:
    """Listed and written to."""
    return _written(visit, visit.site.scratch)


def publication(visit: Visit) -> Answer:
    """Listed and written to."""
    return _written(visit, visit.site.publication)


def _listed(visit: Visit, collection: Collection) -> Answer:
    visit.service.transfer.operation_ls(collection.id, path=collection.root, limit=1)
    return ok(f"{collection.root} of {collection.id} can be listed")


def _written(visit: Visit, collection: Collection) -> Answer:
    _listed(visit, collection)
    path = str(PurePosixPath(collection.root) / visit.marker)
    visit.service.transfer.operation_mkdir(collection.id, path)
    visit.made.append((collection, path))
    return ok(f"{collection.root} of {collection.id} can be written to")


def paths(visit: Visit) -> Answer:
    """The folder that the collection made is where the worker looks for it."""
    assert visit.probe
    site = visit.site.scratch
    seen = visit.probe.folders[0]
    if not seen.exists:
        return failed(
            f"the worker has no {seen.path}, which the collection shows as {site.root}/{visit.marker}",
            "correct scratch.base_path (what workers see) or scratch.root (what the collection calls it)",
        )
    if not seen.writable:
        return failed(
            f"the worker may not write to {seen.path}",
            "let the endpoint's user write there: the collection maps you to another user or group",
        )
    return ok(f"the worker sees {site.root} as {site.base_path}")


def space(visit: Visit) -> Answer:
    """Room on scratch."""
    assert visit.probe
    free = visit.probe.folders[0].free_gib
    if not visit.probe.folders[0].exists:
        return failed("unknown, since the worker does not see scratch", "put the line `paths` right first")
    if free < LEAST_FREE_GIB:
        return failed(
            f"{free:.0f} GiB free on scratch", "remove cells of old parameter sets, or ask for quota"
        )
    return ok(f"{free:.0f} GiB free on scratch")


def removed(visit: Visit) -> Answer:
    """What was made is taken away again."""
    from globus_sdk import DeleteData

    transfer = visit.service.transfer
    tasks = []
    for collection, path in visit.made:
        data = DeleteData(endpoint=collection.id, label="petavoxel site check", recursive=True)
        data.add_item(path)
        tasks.append((collection, path, transfer.submit_delete(data)["task_id"]))
    left = [
        f"{path} of {collection.id}"
        for collection, path, task_id in tasks
        if not transfer.task_wait(task_id, timeout=WAIT_S, polling_interval=1)
    ]
    if left:
        return failed(f"not removed within {WAIT_S} s: {', '.join(left)}", "remove it in the web app")
    return ok(f"{len(tasks)} marker folders removed")
