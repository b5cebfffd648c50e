"""Writes stacks as SBEMimage does: logs of several runs, Windows separators, an operator's address."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from functions.store.images import write_tile

ADDRESS = "operator@example.org"
TILE_WH = (64, 48)
PIXEL_NM = 10.0


@dataclass
class SbemRun:
    """One Start-to-Pause run; call `tile` and `complete` in the order of events, then `close`."""

    folder: Path
    time: str
    session: dict[str, object] = field(default_factory=dict)
    grids: dict[str, str] = field(default_factory=dict)
    imagelist: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        session = {
            "timestamp": 1510841387,
            "eht": 1.5,
            "slice_thickness": 25,
            "grids": ["0000"],
            "grid_origins": [[0.0, 0.0]],
            "rotation_angles": [0],
            "pixel_sizes": [PIXEL_NM],
            "dwell_times": [0.8],
            "email_addresses: ": [ADDRESS],
        } | self.session
        self.metadata.append(f"SESSION: {session}")
        self.grids = {
            "grid_active": "[1]",
            "active_tiles": "[[0, 1, 2, 3]]",
            "acq_interval": "[1]",
            "acq_interval_offset": "[0]",
            "size": "[[2, 2]]",
            "pixel_size": f"[{PIXEL_NM}]",
            "rotation": "[0]",
            "tile_size": f"[{list(TILE_WH)}]",
        } | self.grids

    def tile(self, grid: int, tile: int, z: int, *, shift: int = 0, image: bool = True) -> str:
        """An accepted tile: its image and a line in both lists. Returns the path with forward slashes."""
        name = f"tiles/g{grid:04d}/t{tile:04d}/stack_g{grid:04d}_t{tile:04d}_s{z:05d}.tif"
        if image:
            pixels = (
                np.random.default_rng([grid, tile, z, shift]).integers(0, 256, TILE_WH[::-1]).astype(np.uint8)
            )
            write_tile(self.folder / name, pixels)
        x, y = (tile % 2) * 560 - 398553 + shift, (tile // 2) * 400 - 147855
        windows = name.replace("/", "\\")
        self.imagelist.append(f"{windows};{x};{y};{z * 25};{z}")
        record = {
            "tileid": f"{grid:04d}.{tile:04d}.{z:05d}",
            "timestamp": 1510841400 + z,
            "filename": name,
            "tile_width": TILE_WH[0],
            "tile_height": TILE_WH[1],
            "wd_stig_xy": [0.006, 0.0, 0.0],
            "glob_x": x,
            "glob_y": y,
            "glob_z": z * 25,
            "slice_counter": z,
        }
        self.metadata.append(f"TILE: {record}")
        return name

    def slice(self, z: int, tiles: tuple[int, ...] = (0, 1, 2, 3), *, grid: int = 0) -> None:
        """A whole slice of one grid and its completion, as with a microtome."""
        for tile in tiles:
            self.tile(grid, tile, z)
        self.complete(z)

    def complete(self, z: int) -> None:
        """The marker after the cut: the counter has moved on."""
        self.metadata.append(f"SLICE COMPLETE: {{'timestamp': 1510841500, 'completed_slice': {z + 1}}}")

    def close(
        self, *, ended: bool = True, config: bool = True, metadata: bool = True, tail: str = ""
    ) -> None:
        """Write the files of the run; `tail` is an unfinished last line of the metadata."""
        logs = self.folder / "meta" / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        (logs / f"imagelist_{self.time}.txt").write_text("".join(f"{line}\n" for line in self.imagelist))
        (logs / f"imagelist_ov_{self.time}.txt").write_text(
            "overviews\\ov000\\stack_ov000_s00001.tif;0;0;0;1\n"
        )
        (logs / f"log_{self.time}.txt").write_text("started\n" + ("*** END OF LOG ***\n" if ended else ""))
        if metadata:
            text = "".join(f"{line}\n" for line in self.metadata)
            (logs / f"metadata_{self.time}.txt").write_text(text + tail)
        if config:
            grids = "".join(f"{key} = {value}\n" for key, value in self.grids.items())
            base = f"[acq]\nbase_dir = C:\\Users\\{ADDRESS}\\stack\nslice_thickness = 25\n"
            monitoring = f"[monitoring]\nuser_email = {ADDRESS}\n"
            (logs / f"config_{self.time}.txt").write_text(f"{base}\n[grids]\n{grids}\n{monitoring}")
