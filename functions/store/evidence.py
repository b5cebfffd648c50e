"""What images say about a registered stack, in the run directory: windows of seams and pairs, the verdict.

<work>/evidence/<key>/seams.npz          of one section, windows of all its seams: `seam` says of which
<work>/evidence/<key>/<pair>.npz         of two sections that follow each other
<work>/gate/<key>/registration_gate.json
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from functions.model.errors import UpstreamError
from functions.model.gate import GateDocument
from functions.registration.evidence import NO_WINDOWS, Windows
from functions.store.files import write_json
from functions.store.run import Run
from functions.store.transforms import read_arrays, write_arrays

COLUMNS = ("centre_yx", "ncc", "peak", "shift_yx_px", "sure")


def save_seams(run: Run, section_id: str, seams: list[Windows]) -> None:
    """Write the windows of a section's seams, in the order of its layout."""
    owner = np.repeat(np.arange(len(seams), dtype=np.int32), [len(w) for w in seams])
    columns = {name: np.concatenate([_column(w, name) for w in seams or [NO_WINDOWS]]) for name in COLUMNS}
    write_arrays(run.seam_evidence_cell(section_id).file("seams.npz"), {**columns, "seam": owner})


def load_seams(run: Run, section_id: str, count: int) -> list[Windows]:
    """The windows of each of a section's `count` seams.

    Raises:
        VolumeError: they were not measured.
    """
    path = run.seam_evidence_cell(section_id).file("seams.npz")
    *columns, owner = read_arrays(path, *COLUMNS, "seam")
    return [_windows([c[owner == k] for c in columns]) for k in range(count)]


def save_pair(run: Run, pair: str, windows: Windows) -> None:
    """Write the windows of a pair, in px of the aligned volume."""
    columns = {name: _column(windows, name) for name in COLUMNS}
    write_arrays(run.pair_evidence_cell.file(f"{pair}.npz"), columns)


def load_pair(run: Run, pair: str) -> Windows:
    """The windows of a pair of sections that follow each other.

    Raises:
        VolumeError: they were not measured.
    """
    return _windows(list(read_arrays(run.pair_evidence_cell.file(f"{pair}.npz"), *COLUMNS)))


def gate_path(run: Run) -> Path:
    """Where the verdict is."""
    return run.gate_cell.file("registration_gate.json")


def save_gate(run: Run, document: GateDocument) -> None:
    """Write the verdict."""
    write_json(gate_path(run), document.to_json())


def load_gate(run: Run) -> GateDocument:
    """The verdict on a solved stack under the run's limits.

    Raises:
        UpstreamError: it was not given yet.
    """
    path = gate_path(run)
    try:
        return GateDocument.parse(path.read_bytes(), source=str(path))
    except FileNotFoundError:
        raise UpstreamError(f"{path}: no verdict", remedy="start the run at align_solve") from None


def _column(windows: Windows, name: str) -> NDArray[np.generic]:
    """A column as it is kept: single precision is far finer than the measurement."""
    values: NDArray[np.generic] = getattr(windows, name)
    return values if values.dtype == np.bool_ else values.astype(np.float32)


def _windows(columns: list[NDArray[np.generic]]) -> Windows:
    centre, ncc, peak, shift = (c.astype(np.float64) for c in columns[:4])
    return Windows(centre_yx=centre, ncc=ncc, peak=peak, shift_yx_px=shift, sure=columns[4].astype(np.bool_))
