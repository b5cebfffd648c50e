"""What an adapter noticed at the microscope, as a file beside the documents that go in its logs' stead."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from functions.microscopes.common import read_text
from functions.model.acquisition import Finding
from functions.model.base import Document, describe
from functions.model.errors import AcquisitionError
from functions.store.files import write_json

NAME = "findings.json"


class _Findings(Document):
    """The file."""

    findings: tuple[Finding, ...]


def write_findings(folder: Path, findings: Sequence[Finding]) -> None:
    """Write them into a folder of documents."""
    write_json(folder / NAME, _Findings(findings=tuple(findings)).to_json())


def read_findings(folder: Path) -> tuple[Finding, ...]:
    """What `write_findings` wrote; none without the file.

    Raises:
        AcquisitionError: it is none of ours.
    """
    path = folder / NAME
    if not path.is_file():
        return ()
    try:
        return _Findings.model_validate_json(read_text(path, limit=1 << 28)).findings
    except ValidationError as error:
        raise AcquisitionError(f"{NAME}: {describe(error)}", remedy="start the run again") from None
