"""Running the command line inside a test: one invocation, what it printed and its exit code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from typer.testing import CliRunner

from typer_cli.app import app

PLAIN = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What an invocation left."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The one JSON document on standard output."""
        return json.loads(self.out)


def petavoxel(*arguments: str | object) -> Done:
    """Run `petavoxel` with these arguments in this process."""
    done = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="petavoxel", env=PLAIN)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return Done(code=done.exit_code, out=done.stdout, err=done.stderr)
