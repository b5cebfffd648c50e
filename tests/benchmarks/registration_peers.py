"""The environment of the peers: FEABAS and what the makers of sets need, apart from Petavoxel's own.

It is made once, from PyPI, with the versions below, in a folder of its own.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

TOOLS = ("numpy==2.4.6", "scipy==1.17.1", "opencv-python-headless==5.0.0.93", "pillow==13.0.0")
CACHE = Path.home() / ".cache" / "petavoxel" / "peers"
REFUSED = {
    "sofima": "its package cannot be run from PyPI alone (jax and connectomics have to be fitted by hand); "
    "give --peers feabas",
}


def environment(peers: tuple[str, ...], cache: Path = CACHE) -> Path:
    """The Python of an environment that holds the peers and the tools; made if it is not there.

    Raises:
        SystemExit: a peer is not known, or PyPI cannot be reached.
    """
    wanted = sorted({*TOOLS, *(name for peer in peers for name in requirements(peer))})
    home = cache / hashlib.sha256(" ".join([sys.version, *wanted]).encode()).hexdigest()[:12]
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    print(f"making {home} from PyPI: {', '.join(wanted)}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    made = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check", *wanted],
        stdout=sys.stderr,
    )
    if made.returncode:
        raise SystemExit(f"{home}: pip failed; the peers and the makers of sets need PyPI once")
    (home / "ready").touch()
    return python


def requirements(peer: str) -> tuple[str, ...]:
    """What pip installs for a peer.

    Raises:
        SystemExit: it is not known, or known not to run.
    """
    if peer in REFUSED:
        raise SystemExit(f"--peers {peer}: {REFUSED[peer]}")
    raise SystemExit(f"--peers {peer}: unknown; give feabas")
