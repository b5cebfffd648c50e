"""An endpoint that runs somewhere, behind the face of an `Engine`: through Globus Compute's own Executor.

The run itself stays on this machine; its tasks go through Globus to the endpoint, which must see this
machine's scratch under the same path: a login node and its cluster, say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from concurrent.futures import BrokenExecutor, Future
from pathlib import Path
from typing import Any

from flows.local.engine_config import JSON_DATA
from flows.local.engines import Engine
from flows.local.interchange import reported
from flows.local.registered import RegisteredFunction, unpack_task
from flows.site import Site


def logged_in(profile: Path) -> tuple[Site, Any]:
    """A site and a `globus_compute_sdk.Client` for it, logged in there; in a terminal it asks for the login.

    Raises:
        SiteError: the profile is not filled in.
        AuthError: a login is needed, and this is no terminal.
        ServiceError: Globus cannot be reached.
    """
    from globus_compute_sdk import Client

    from flows.auth import app_of
    from flows.service import told
    from flows.site import home_folder, load_site

    home = home_folder()
    site = load_site(str(profile), home=home)
    app = app_of(site, "checker", home)
    client = Client(app=app, do_version_check=False)
    if app.login_required():
        with told("log in to Globus Compute"):
            app.login()
    return site, client


def endpoint_of(profile: Path) -> EndpointEngine:
    """The endpoint of a site's profile, asked as whoever is logged in there.

    Raises:
        SiteError, AuthError, ServiceError: as `logged_in`.
    """
    from flows.lock import read_lock

    site, client = logged_in(profile)
    lock = read_lock(profile.with_suffix(".lock.json"))
    return EndpointEngine(
        client,
        site.compute.endpoint_id,
        options=site.compute.user_endpoint_config,
        registered={known.sha256: known.id for known in lock.functions.values()} if lock else {},
    )


class EndpointEngine(Engine):
    """Tasks for one endpoint. It ends nothing there: workers stop at the run's sentinel, or by themselves."""

    def __init__(
        self,
        client: Any,
        endpoint_id: str,
        *,
        options: Mapping[str, Any],
        registered: Mapping[str, str],
    ) -> None:
        """Args:
        client: a logged-in `globus_compute_sdk.Client`.
        options: what the endpoint's template takes: queue, account, workers, ...
        registered: ids of functions by the SHA-256 of their text: all that a deployed endpoint allows.
        """
        from globus_compute_sdk import Executor
        from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

        super().__init__()
        self._client = client
        self._ids = dict(registered)
        self._executor = Executor(
            endpoint_id,
            client=client,
            user_endpoint_config=dict(options),
            serializer=ComputeSerializer(
                PureSourceTextInspect(),
                JSONData(),
                allowed_deserializer_types=[PureSourceTextInspect, JSONData],
            ),
            result_serializers=[JSON_DATA],
        )

    def _submit(self, packed: str) -> Future[str]:
        function, args, kwargs = unpack_task(packed)
        answer: Future[str] = Future()

        def take(done: Future[Any]) -> None:
            if answer.set_running_or_notify_cancel():
                answer.set_result(_outcome(done))

        try:
            remote = self._executor.submit_to_registered_function(self._id_of(function), tuple(args), kwargs)
        except RuntimeError as error:  # it stops for good when the service cannot be reached
            raise BrokenExecutor(f"the connection to Globus Compute ended: {error}") from error
        remote.add_done_callback(take)
        return answer

    def _id_of(self, function: RegisteredFunction) -> str:
        from flows.lock import digest

        text = digest(function.source)
        if text not in self._ids:
            self._ids[text] = self._client.register_source_code(function.source, function.name)
        return self._ids[text]

    def close(self, *, at_once: bool) -> None:
        """Take no more answers. Tasks at the endpoint cannot be called back."""
        from globus_compute_sdk.sdk.executor import _RESULT_WATCHERS

        self._executor.shutdown(wait=False, cancel_futures=True)
        # the process would not end before the last answer: the watcher's thread waits for them all
        watcher = _RESULT_WATCHERS.get(self._executor.task_group_id)
        if watcher is not None:
            connection = watcher._connection
            watcher.shutdown(wait=True, cancel_futures=True)
            if connection is not None:
                connection.ioloop.close()  # the SDK leaves its sockets open


def _outcome(done: Future[Any]) -> str:
    from globus_compute_sdk.errors import TaskExecutionFailed

    try:
        return json.dumps({"output": done.result()})
    except TaskExecutionFailed as error:
        name, message = _told(error.remote_data)
    except BaseException as error:
        name, message = type(error).__name__, str(error)
    return json.dumps({"error": name, "message": message})


_TOO_LARGE = re.compile(r"MaxResultSizeExceeded\((\d+), (\d+)\)")


def _told(text: str) -> tuple[str, str]:
    """Name and message of a failure: a traceback, save for a result that is too large."""
    from globus_compute_sdk.errors import MaxResultSizeExceeded

    if sizes := _TOO_LARGE.fullmatch(text.strip()):
        error = MaxResultSizeExceeded(*map(int, sizes.groups()))
        return type(error).__name__, str(error)
    return reported(text)
