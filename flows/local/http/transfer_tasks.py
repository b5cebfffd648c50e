"""Transfer tasks of the loopback: submitted once, carried out in threads, remembered in the store."""

from __future__ import annotations

import shutil
import threading
import time

from flows.errors import ActionError
from flows.local.actions import ActionStatus, Json, Progress, ThreadProvider
from flows.local.catalog import Catalog, StoredTask
from flows.local.documents import OWNER_ID
from flows.local.interpreter import iso
from flows.local.transfer import Collections, transfer


class TransferTasks:
    """Copies and deletions between the site's collections."""

    def __init__(self, catalog: Catalog, collections: Collections, names: dict[str, str]) -> None:
        self.collections = collections
        self.names = names
        """Display names of the collections, by id."""
        self._catalog = catalog
        self._lock = threading.Lock()
        self._providers = {
            "TRANSFER": ThreadProvider(self._copy),
            "DELETE": ThreadProvider(self._delete),
        }

    def submit(self, kind: str, body: Json) -> tuple[str, bool]:
        """Begin a task; its id, and whether it is new (the same submission id again is the same task).

        Raises:
            ActionError: a path leaves its collection.
        """
        fields = ("source", "destination") if kind == "TRANSFER" else ("",)
        for index, item in enumerate(body["DATA"]):
            for field in fields:
                collection = body[f"{field}_endpoint".lstrip("_")]
                path = item[f"{field}_path".lstrip("_")]
                self.collections.resolve(collection, path, field=f"DATA[{index}]")
        task, new = self._catalog.submit(kind, body)
        self._status(task)
        return task.id, new

    def document(self, task: StoredTask) -> Json:
        """A task as it stands. One that a dead server left under way goes on: what is copied is not copied
        again."""
        if task.document is not None:
            return task.document
        status = self._status(task)
        document = self._told(task, status)
        if status.status != "ACTIVE":
            self._catalog.end_task(task.id, document)
        return document

    def cancel(self, task: StoredTask) -> bool:
        """Stop a task; False if it had ended."""
        if self.document(task)["status"] != "ACTIVE":
            return False
        self._providers[task.kind].cancel(task.id)
        return True

    def _status(self, task: StoredTask) -> ActionStatus:
        provider = self._providers[task.kind]
        with self._lock:
            provider.start(task.id, task.body)
            return provider.status(task.id)

    def _copy(self, body: Json, progress: Progress) -> Json:
        items = [{**item, "recursive": bool(item.get("recursive"))} for item in body["DATA"]]
        return transfer(self.collections, {**body, "DATA": items}, progress)

    def _delete(self, body: Json, progress: Progress) -> Json:
        paths = [self.collections.resolve(body["endpoint"], i["path"], field="path") for i in body["DATA"]]
        progress.total = len(paths)
        for path in paths:
            if path == self.collections.roots[body["endpoint"]].resolve():
                raise ActionError(f"{path}: is the collection's root", remedy="delete what lies in it")
            if path.is_dir():
                if not body.get("recursive"):
                    raise ActionError(f"{path}: a folder", remedy="set recursive")
                shutil.rmtree(path)
            elif path.exists():
                path.unlink()
            elif not body.get("ignore_missing"):
                raise ActionError(f"{path}: does not exist", remedy="check the path, or set ignore_missing")
            progress.done += 1
        return {"files": len(paths)}

    def _told(self, task: StoredTask, status: ActionStatus) -> Json:
        """The task document of Transfer."""
        body, details = task.body, status.details
        ended = status.status != "ACTIVE"
        source, destination = body.get("source_endpoint"), body.get("destination_endpoint")
        error = {"code": "PERMANENT_FAILURE", "description": status.cause} if status.cause else None
        return {
            "DATA_TYPE": "task",
            "task_id": task.id,
            "type": task.kind,
            "status": status.status,
            "nice_status": "OK" if status.status == "SUCCEEDED" else None,
            "nice_status_details": status.cause or None,
            "fatal_error": error,
            "label": body.get("label"),
            "owner_id": OWNER_ID,
            "request_time": task.created,
            "completion_time": iso(time.time()) if ended else None,
            "source_endpoint_id": source or body.get("endpoint"),
            "source_endpoint_display_name": self.names.get(source or body.get("endpoint", "")),
            "destination_endpoint_id": destination,
            "destination_endpoint_display_name": self.names.get(destination or ""),
            "files": details.get("files", status.total),
            "files_transferred": details.get("files_transferred", 0),
            "files_skipped": details.get("files_skipped", 0),
            "bytes_transferred": details.get("bytes_transferred", 0),
            "subtasks_total": status.total,
            "subtasks_succeeded": status.done,
            "subtasks_pending": 0 if ended else status.total - status.done,
            "subtasks_failed": 0,
            "faults": 0,
            "is_paused": False,
            "sync_level": body.get("sync_level"),
            "verify_checksum": body.get("verify_checksum", True),
            "command": "API 0.10",
        }
