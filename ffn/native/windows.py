"""Fields of view between flat canvases and batches on one CPU thread in C, the disco rule included.

What `ffn.device_canvas` does in seven passes over tensors, in two over the canvas; see `windows.c`.
Shape letters: B rows of a batch, Z Y X field of view, V voxels of a canvas in C order.
"""

import ctypes

import torch
from torch import Tensor

from ffn.config import Triple
from ffn.native.build import BuildError, windows_library

_NEVER = 2**62  # more voxels than there are


class NativeWindows:
    """Fields of view of canvases whose planes and lines are `plane` and `line` voxels apart."""

    def __init__(self, fov_zyx: Triple, *, plane: int, line: int) -> None:
        self._library = windows_library(fov_zyx)
        self._steps = ctypes.c_int64(plane), ctypes.c_int64(line)

    @classmethod
    def where_possible(
        cls, device: torch.device, fov_zyx: Triple, *, plane: int, line: int
    ) -> "NativeWindows | None":
        """None on an accelerator and without a C compiler."""
        if device.type != "cpu":
            return None
        try:
            return cls(fov_zyx, plane=plane, line=line)
        except BuildError:
            return None

    def gather(self, canvas: Tensor, at: Tensor, out: Tensor, *, unseen: float) -> None:
        """Copies the fields of view of `canvas` (V,) that begin at `at` (B,) into `out` (B, Z, Y, X).

        NaN becomes `unseen`. `out` may be one channel of several, lying with or without them.
        """
        self._library.gather(
            _pointer(canvas),
            *self._steps,
            *_numbers(at),
            ctypes.c_float(unseen),
            _pointer(out),
            ctypes.c_int64(out.stride(0)),
            ctypes.c_int64(out.stride(3)),
        )

    def scatter(
        self, canvas: Tensor, at: Tensor, logits: Tensor, written: Tensor, *, move: float, least: int | None
    ) -> None:
        """`Canvas.scatter` of `logits` (B, Z, Y, X), row after row; what it writes goes to `written`, too.

        The disco rule holds where `least` or more logits are at `move` or above; None: nowhere.
        """
        answers = logits.contiguous()
        self._library.scatter(
            _pointer(canvas),
            *self._steps,
            *_numbers(at),
            _pointer(answers),
            _pointer(written),
            ctypes.c_float(move),
            ctypes.c_int64(_NEVER if least is None else least),
        )


def _numbers(at: Tensor) -> tuple[ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]:
    return _pointer(at), ctypes.c_int64(at.stride(0)), ctypes.c_int64(len(at))


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
