"""Which accelerator a worker process takes."""

import pytest
import torch

from ffn.device import count_devices, share_devices
from functions.model.parameters import SegmentParameters
from functions.model.workers import ENDPOINT_VARIABLE, LAUNCHER_VARIABLES, WORKER_VARIABLE, worker_number
from functions.segmenters import place

CUDA = torch.device("cuda")


@pytest.mark.parametrize(
    ("processes", "count", "expected"),
    [
        (1, 4, [0, 1, 2, 3, 0, 1]),
        (2, 4, [0, 0, 1, 1, 2, 2]),
        (3, 2, [0, 0, 0, 1, 1, 1]),
        (3, 1, [0, 0, 0, 0, 0, 0]),
    ],
)
def test_so_many_workers_share_an_accelerator(processes: int, count: int, expected: list[int]) -> None:
    taken = [
        share_devices(CUDA, worker=worker, processes_per_device=processes, count=count) for worker in range(6)
    ]
    assert taken == [torch.device("cuda", index) for index in expected]


def test_a_cpu_and_a_device_with_a_number_stay() -> None:
    for device in (torch.device("cpu"), torch.device("xpu:1")):
        assert share_devices(device, worker=3, processes_per_device=1, count=2) == device
    assert count_devices("cpu") == 0
    assert place(torch.device("cpu"), SegmentParameters()) == torch.device("cpu")


def test_the_number_is_that_of_the_site_or_of_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKER_VARIABLE, raising=False)
    monkeypatch.delenv(ENDPOINT_VARIABLE, raising=False)
    for name in LAUNCHER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert worker_number() == 0
    monkeypatch.setenv(LAUNCHER_VARIABLES[0], "2")
    assert worker_number() == 2
    monkeypatch.setenv(ENDPOINT_VARIABLE, "7")
    assert worker_number() == 7
    monkeypatch.setenv(WORKER_VARIABLE, "3")
    assert worker_number() == 3


def test_the_parameter_decides_on_the_device_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv(WORKER_VARIABLE, "5")
    assert place(CUDA, SegmentParameters()) == torch.device("cuda:1")
    assert place(CUDA, SegmentParameters(processes_per_device=2)) == torch.device("cuda:2")
    assert place(CUDA, SegmentParameters(processes_per_device=6)) == torch.device("cuda:0")


def test_where_the_site_shows_a_worker_one_device_it_takes_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # CUDA_VISIBLE_DEVICES names one
    for worker in range(8):
        monkeypatch.setenv(WORKER_VARIABLE, str(worker))
        assert place(CUDA, SegmentParameters(processes_per_device=2)) == torch.device("cuda:0")
