"""Showing a box while it is segmented: a line now and then on standard error."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from typer_cli.output import console

if TYPE_CHECKING:
    from ffn.inference import Progress

LINE_SECONDS = 5.0


class FloodProgress:
    """`on_progress` prints at most one line in `LINE_SECONDS`."""

    def __init__(self) -> None:
        self._screen = console(error=True)
        self._last = time.monotonic()

    def on_progress(self, progress: Progress, *, title: str = "") -> None:
        """Take notice of where the segmentation is."""
        now = time.monotonic()
        if now - self._last < LINE_SECONDS:
            return
        self._last = now
        self._screen.print(
            f"{title}seeds {progress.seeds_done}/{progress.seeds}  fields of view {progress.fovs:,}  "
            f"objects {progress.objects}  voxels {progress.labelled_voxels:,}",
            markup=False,
            soft_wrap=True,
        )
