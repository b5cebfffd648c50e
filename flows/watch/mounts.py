"""Which kind of file system a folder lies on: events of other machines reach nobody through a network
share."""

from __future__ import annotations

import os
from pathlib import Path

REMOTE = ("nfs", "cifs", "smb", "9p", "fuse", "afs", "lustre", "gpfs", "beegfs", "ceph")


def is_remote(folder: Path, *, mounts: Path = Path("/proc/mounts")) -> bool:
    """Whether a folder lies on a share; False where that cannot be told."""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    where = f"{os.path.realpath(folder)}/"
    best, kind = "", ""
    for line in lines:
        cells = line.split()
        if len(cells) < 3:
            continue
        point = cells[1].replace("\\040", " ").rstrip("/") + "/"
        if where.startswith(point) and len(point) >= len(best):
            best, kind = point, cells[2]
    return kind.startswith(REMOTE)
