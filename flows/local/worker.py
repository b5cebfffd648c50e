"""What a Compute worker process does: take packed source text and JSON, run it, answer JSON.

This is the embedded counterpart of an endpoint's worker. The function that arrives needs nothing of this
package but what its own imports name.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from multiprocessing.sharedctypes import Synchronized

from functions.model.workers import WORKER_VARIABLE

MAX_RESULT_BYTES = 10 * 1024 * 1024
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def prepare(parent: int, workers: Synchronized[int]) -> None:
    """Pool initialiser: a number and one thread of arithmetic a worker, and no life after the parent's.

    `workers` counts them; by its number a worker of several chooses its accelerator.
    """
    with workers.get_lock():
        os.environ[WORKER_VARIABLE] = str(workers.value)
        workers.value += 1
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        _die_with_parent()
    threading.Thread(target=_watch_parent, args=(parent,), name="watch-parent", daemon=True).start()


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that made it ends (the watch covers the rest)."""
    import ctypes

    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def run_packed(packed: str) -> str:
    """Run a packed (function, args, kwargs) and return JSON text: `{"output": ...}` or an error.

    Only source text and JSON data are unpacked; pickles are refused, as on an endpoint.
    """
    from globus_compute_sdk.errors import MaxResultSizeExceeded
    from globus_compute_sdk.serialize import ComputeSerializer, JSONData, PureSourceTextInspect

    serializer = ComputeSerializer(
        PureSourceTextInspect(), JSONData(), allowed_deserializer_types=[PureSourceTextInspect, JSONData]
    )
    try:
        function, args, kwargs = serializer.unpack_and_deserialize(packed)
        text = serializer.serialize(function(*args, **kwargs))
        if len(text) > MAX_RESULT_BYTES:
            raise MaxResultSizeExceeded(len(text), MAX_RESULT_BYTES)
    except Exception as error:
        return json.dumps({"error": type(error).__name__, "message": str(error) or repr(error)})
    return json.dumps({"output": serializer.deserialize(text)})
