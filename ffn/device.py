"""Where tensors live: CPU, NVIDIA (cuda) or Intel (xpu)."""

import torch


def choose_device(name: str = "auto") -> torch.device:
    """The named device, or with "auto" the best one present: cuda, xpu, cpu.

    Raises ValueError for a device that is not there.
    """
    present = {"cuda": torch.cuda.is_available(), "xpu": torch.xpu.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, there in present.items() if there))
    kind = name.partition(":")[0]
    if not present.get(kind, False):
        there = ", ".join(k for k, v in present.items() if v)
        raise ValueError(f"device: {name!r} is not available here; use auto or one of {there}")
    return torch.device(name)
