"""One adapter per acquisition layout: one file with `NAME`, `detect(folder)`, `read(folder)` and, for who
watches it grow, `observe(folder, memory)` and `places(folder)`. The registry lists them."""

from __future__ import annotations

from functions.microscopes.common import ReadAcquisition
from functions.microscopes.registry import AcquisitionCheck, check_acquisition, read_acquisition

__all__ = ["AcquisitionCheck", "ReadAcquisition", "check_acquisition", "read_acquisition"]
