"""CUDA graphs: a function of one tensor, captured once for every shape and address, then replayed."""

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 2
"""Calls before the capture, in which cuDNN finds its kernels and takes its memory."""


class Graphs:
    """The captured calls of `function`, which must not wait for the device."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function
        self._captured: dict[tuple[int, tuple[int, ...]], tuple[torch.cuda.CUDAGraph, Tensor]] = {}

    def run(self, x: Tensor) -> Tensor:
        """`function(x)` of what lies in `x` now, in a tensor that the next call of this shape overwrites."""
        key = (x.data_ptr(), tuple(x.shape))
        if key not in self._captured:
            self._captured[key] = self._capture(x)
        graph, answer = self._captured[key]
        graph.replay()
        return answer

    def clear(self) -> None:
        """Gives the memory of all that was captured back; nobody may wait for an answer any more."""
        self._captured.clear()

    def _capture(self, x: Tensor) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        aside = torch.cuda.Stream(x.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(x.device))
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                self._function(x)
        torch.cuda.current_stream(x.device).wait_stream(aside)
        torch.cuda.synchronize(x.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others may allocate meanwhile
            answer = self._function(x)
        return graph, answer
