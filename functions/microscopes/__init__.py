"""One adapter per acquisition layout: one file with `NAME`, `detect(folder)` and `read(folder)`."""

from __future__ import annotations

from functions.microscopes.common import ReadAcquisition
from functions.microscopes.registry import AcquisitionCheck, check_acquisition, read_acquisition

__all__ = ["AcquisitionCheck", "ReadAcquisition", "check_acquisition", "read_acquisition"]
