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
PACKAGES = {"feabas": "feabas==3.0.6"}
NEEDS = {
    "feabas": (
        "dask[array]==2026.8.0", "dask-jobqueue==0.9.0", "dill==0.4.1", "distributed==2026.8.0",
        "google-cloud-storage==3.17.1", "h5py==3.16.0", "matplotlib==3.11.2", "psutil==7.2.2", "pyamg==5.4.1",
        "pyyaml==6.0.4", "rtree==1.4.1", "scikit-image==0.26.0", "shapely==2.0.7", "tensorstore==0.1.86",
        "triangle==20250106",
    ),
}  # fmt: skip
"""What a peer needs. The headless OpenCV stands in for the one that FEABAS asks for: that wants a display."""
REFUSED = {
    "sofima": "has no driver here: it is a library without commands, and the parameters of its notebook have "
    "to be chosen by hand for each set",
}
CACHE = Path.home() / ".cache" / "petavoxel" / "peers"


def environment(peers: tuple[str, ...], cache: Path = CACHE) -> Path:
    """The Python of an environment that holds the peers and the tools; made if it is not there.

    Raises:
        SystemExit: a peer is not known, or PyPI cannot be reached.
    """
    for peer in peers:
        if peer not in PACKAGES:
            raise SystemExit(f"--peers {peer}: {REFUSED.get(peer, 'unknown')}; give {', '.join(PACKAGES)}")
    needs = sorted({*TOOLS, *(name for peer in peers for name in NEEDS[peer])})
    packages = [PACKAGES[peer] for peer in sorted(peers)]
    home = cache / hashlib.sha256(" ".join([sys.version, *needs, *packages]).encode()).hexdigest()[:12]
    python = home / "bin" / "python"
    if (home / "ready").exists():
        return python
    print(f"making {home} from PyPI: {', '.join(packages + needs)}", file=sys.stderr, flush=True)
    shutil.rmtree(home, ignore_errors=True)
    venv.create(home, with_pip=True)
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for what in [needs, *(["--no-deps", package] for package in packages)]:
        if subprocess.run([*pip, *what], stdout=sys.stderr).returncode:
            raise SystemExit(f"{home}: pip failed; the peers and the makers of sets need PyPI once")
    (home / "ready").touch()
    return python
