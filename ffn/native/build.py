"""Compiles `network.c` and `windows.c` for one shape on this CPU, once, into the user's cache.

A C compiler (`$CC`, else cc, gcc or clang) and a second are all it takes; the library's name is a hash of the
source, the options, the compiler and the CPU, so that a shared home directory serves unlike machines.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from ffn.config import NetworkConfig, Triple

NETWORK, WINDOWS = (Path(__file__).with_name(name) for name in ("network.c", "windows.c"))
OPTIONS = ("-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math")
LINKING = ("-shared", "-fPIC", "-std=gnu11")
# never -ffast-math: a library linked with it turns off denormal numbers for the whole process
_MOST_SECONDS = 120


class BuildError(RuntimeError):
    """The kernel cannot be compiled here; the message says why."""


def cache_folder() -> Path:
    """`$PETAVOXEL_KERNELS`, else `petavoxel/kernels` in the user's cache."""
    wanted = os.environ.get("PETAVOXEL_KERNELS")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(wanted) if wanted else Path(base) / "petavoxel" / "kernels"


def compiler() -> list[str] | None:
    """The command of a C compiler, or None."""
    if os.environ.get("CC"):
        command = shlex.split(os.environ["CC"])
        return command if shutil.which(command[0]) else None
    found = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    return [found] if found else None


@lru_cache
def library(config: NetworkConfig) -> ctypes.CDLL:
    """The compiled network of one shape. Raises BuildError."""
    return _built(NETWORK, [f"-DCHANNELS={channels(config)}", *_shape(config.fov_zyx)])


@lru_cache
def windows_library(fov_zyx: Triple) -> ctypes.CDLL:
    """The compiled gather and scatter of one field of view. Raises BuildError."""
    return _built(WINDOWS, _shape(fov_zyx))


def _built(source: Path, shape: list[str]) -> ctypes.CDLL:
    command = compiler()
    if command is None:
        raise BuildError("finds no C compiler")
    options = [*OPTIONS, *LINKING, *shape]
    path = cache_folder() / f"{_fingerprint(command, options, source)}.so"
    loaded = _load(path)
    if loaded is None:  # not there, or damaged
        _compile([*command, *options], source, path)
        loaded = _load(path)
    if loaded is None:
        raise BuildError(f"does not load from {path}")
    return loaded


def _load(path: Path) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        return None


def channels(config: NetworkConfig) -> int:
    """Features rounded up to whole vectors of either width."""
    return -(-config.features // 16) * 16


def _shape(fov_zyx: Triple) -> list[str]:
    z, y, x = fov_zyx
    return [f"-DFOV_Z={z}", f"-DFOV_Y={y}", f"-DFOV_X={x}"]


def _compile(command: list[str], source: Path, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / path.name
            subprocess.run(
                [*command, str(source), "-o", str(made)],
                check=True,
                capture_output=True,
                timeout=_MOST_SECONDS,
            )
            os.replace(made, path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines()
        raise BuildError(f"does not compile ({lines[0] if lines else error})") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"cannot be compiled ({error})") from None


def _fingerprint(command: list[str], options: list[str], source: Path) -> str:
    version = subprocess.run([*command, "--version"], check=False, capture_output=True, timeout=_MOST_SECONDS)
    digest = hashlib.sha256(source.read_bytes())
    for part in (" ".join(options).encode(), version.stdout, _cpu().encode()):
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()[:32]


def _cpu() -> str:
    """What `-march=native` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return platform.machine() + next(
            (line for line in lines if line.startswith(("flags", "Features"))), ""
        )
    except OSError:
        return platform.machine() + platform.processor()
