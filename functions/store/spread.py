"""Folders that stay small: files of a cell are spread over at most 4096 folders by a hash of their names.

    subvolumes/3fa/z00000_y00128_x00256.npz

Ten million files are 2,400 a folder, thirty million (the overlaps of as many subvolumes) 7,300. A file's
folder follows from its name alone, so nobody has to know how many there are.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

HEX_DIGITS = 3
FOLDERS = 16**HEX_DIGITS


def spread(folder: Path, name: str) -> Path:
    """Where the file `name` lies under `folder`."""
    return folder / hashlib.blake2b(name.encode(), digest_size=2).hexdigest()[:HEX_DIGITS] / name
