"""Two processes train as one does, and a killed one costs no more than the steps since the last state."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ffn.config import ConfigError
from ffn.distributed import DistributedError, World, joined
from ffn.examples import ExampleSource
from ffn.slots import Slots
from ffn.training import Trainer, train
from ffn.training_log import read_log
from ffn.training_state import load_best
from tests.ffn.training_worker import RECIPE, figures, gradients, recipe, walls

STEPS = 30


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def start_pair(folder: Path, *options: str) -> list[int]:
    """Runs the worker as two processes on loopback, without torchrun; their exit codes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    world = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), **quiet()}
    command = [sys.executable, "-m", "tests.ffn.training_worker", str(folder), *options]
    processes = [
        subprocess.Popen(command, env={**os.environ, **world, "RANK": str(rank)}, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1].decode() for process in processes]
    for process, error in zip(processes, errors, strict=True):
        if process.returncode not in (0, -signal.SIGKILL):
            print(error, file=sys.stderr)
    return [process.returncode for process in processes]


def quiet() -> dict[str, str]:
    return {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes leave that train undisturbed."""
    folder = tmp_path_factory.mktemp("pair")
    assert start_pair(folder, "--steps", str(STEPS), "--gradients") == [0, 0]
    return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of one process with the same global batch."""
    torch.set_num_threads(1)
    network = train(recipe(steps=STEPS), [walls()], folder=tmp_path_factory.mktemp("alone"))
    return network.state_dict()


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], *, relative: float) -> None:
    """Every tensor to `relative` of its largest value."""
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=relative * float(value.abs().max()))


def test_two_processes_give_the_gradients_of_the_doubled_batch(pair: Path) -> None:
    first, second = (load_file(pair / f"gradients.{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(gradients(World()), first, relative=1e-5)
    assert min(float(value.abs().max()) for value in first.values()) > 1e-4


def test_two_processes_train_to_the_weights_of_one(pair: Path, alone: dict[str, torch.Tensor]) -> None:
    first, second = (load_file(pair / f"average.{rank}.safetensors") for rank in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert_close(alone, first, relative=1e-3)


def test_rank_0_alone_writes(pair: Path) -> None:
    steps = [line["step"] for line in read_log(pair / "log.jsonl")]
    assert steps == list(range(5, STEPS + 1, 5))
    last = read_log(pair / "log.jsonl")[-1]
    assert last["fovs"] == STEPS * RECIPE.optimiser.batch
    best = load_best(pair / "best.safetensors")
    assert best.figures["voi_sum"] == min(
        x["voi_sum"] for x in read_log(pair / "log.jsonl") if "voi_sum" in x
    )


def test_a_state_of_two_processes_goes_on_in_one(
    tmp_path: Path, alone: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    codes = start_pair(tmp_path, "--steps", str(STEPS), "--die-at", "17")
    assert codes[1] == -signal.SIGKILL
    # its exception ends it; at times gloo aborts afterwards, over connections that it was still using
    assert codes[0] > 0 or codes[0] == -signal.SIGABRT
    assert "RuntimeError: " in capsys.readouterr().err
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == [5, 10, 15]
    network = train(
        recipe(steps=STEPS), [walls()], folder=tmp_path, log_every=5, save_every=10, validate=figures
    )
    assert_close(alone, network.state_dict(), relative=1e-3)
    assert [line["step"] for line in read_log(tmp_path / "log.jsonl")] == list(range(5, STEPS + 1, 5))


@pytest.mark.slow
def test_torchrun_restarts_a_killed_process_to_the_same_weights(tmp_path: Path, pair: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "2"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"]
    command += ["-m", "tests.ffn.training_worker", str(tmp_path), "--steps", str(STEPS), "--die-at", "17"]
    done = subprocess.run(command, env={**os.environ, **quiet()}, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert (tmp_path / "died").exists()
    for name in ("average.0.safetensors", "average.1.safetensors", "best.safetensors"):
        assert (tmp_path / name).read_bytes() == (pair / name).read_bytes()
    logs = [read_log(folder / "log.jsonl") for folder in (tmp_path, pair)]
    assert [_timeless(line) for line in logs[0]] == [_timeless(line) for line in logs[1]]


def _timeless(line: dict[str, float]) -> str:
    return json.dumps({name: value for name, value in line.items() if name != "seconds"})


def test_slots_of_all_ranks_are_the_slots_of_one() -> None:
    source = ExampleSource(
        [walls()],
        config=RECIPE.examples,
        augmentation=RECIPE.augmentation,
        normalisation=RECIPE.normalisation,
        seed=RECIPE.seed,
    )
    whole = Slots(RECIPE, source, rank=0, size=1)
    parts = [Slots(RECIPE, source, rank=rank, size=4) for rank in range(4)]
    assert [list(part.indices) for part in parts] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    for slots in (whole, *parts):
        for _ in range(3):  # no belief grows, so that every step begins an example
            slots.advance()
    together = {i: slot.number for part in parts for i, slot in part.held.items()}
    assert together == {i: slot.number for i, slot in whole.held.items()} == {i: i + 16 for i in range(8)}
    assert sum(part.examples_begun() for part in parts) == whole.examples_begun() == 24


def test_the_batch_is_shared_evenly() -> None:
    with pytest.raises(ConfigError, match=r"optimiser\.batch: 8 must be a multiple of the 3 processes"):
        Trainer(RECIPE, [walls()], world=World(rank=1, size=3))
    with pytest.raises(ConfigError, match="rank: must be"):
        World(rank=2, size=2)


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined("cpu") as world:
        assert world == World()
        assert world.total(torch.ones(2)).tolist() == [1, 1]
        assert world.gathered(torch.ones(2))[0].tolist() == [1, 1]


def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(DistributedError, match=r"RANK: '' is not a number; start .* torchrun"), joined("cpu"):
        pass


def test_restarts_on_several_nodes_need_new_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    elastic = {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_MAX_RESTARTS": "3"}
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1", "RANK": "0", **elastic}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "1")
    with pytest.raises(DistributedError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE"), joined("cpu"):
        pass
