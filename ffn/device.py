"""Where tensors live: CPU, NVIDIA (cuda) or Intel (xpu); and which of several a worker process takes."""

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


def count_devices(kind: str) -> int:
    """How many accelerators of a kind this process sees; 0 of any other."""
    counts = {"cuda": torch.cuda.device_count, "xpu": torch.xpu.device_count}
    return counts[kind]() if kind in counts else 0


def share_devices(
    device: torch.device, *, worker: int, processes_per_device: int, count: int
) -> torch.device:
    """The device of worker 0, 1, ...: the first `processes_per_device` take the first of `count`, and so on.

    Workers beyond the last begin at the first again. The CPU, and a device with a number, stay what they are.
    """
    if device.type == "cpu" or count == 0 or device.index is not None:
        return device
    return torch.device(device.type, worker // processes_per_device % count)
