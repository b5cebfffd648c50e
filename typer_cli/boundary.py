"""The one place where exceptions become messages with a remedy, and exit codes.

0    done
1    something must be put right: input, site or network; the message ends with a remedy
2    the command line does not parse
3    the answer is no: incomplete acquisition, lint findings, a run that failed or was cancelled
70   an error of Petavoxel itself
130  interrupted
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import asdict
from enum import IntEnum
from itertools import pairwise
from typing import Any

import typer
from typer.core import TyperGroup

from typer_cli.options import state_of
from typer_cli.output import Failure, print_json, show_failure

TRACKER = "report it with the output of the same command under `petavoxel --debug`"
USAGE = "see the command's --help"


class ExitCode(IntEnum):
    """How the command ends."""

    DONE = 0
    PUT_RIGHT = 1
    USAGE = 2
    NO = 3
    BUG = 70
    INTERRUPTED = 130


class BoundaryGroup(TyperGroup):
    """The root command: whatever a command raises ends here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn exceptions into a message and an exit code."""
        words = [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except Exception as error:
            state = state_of(ctx)
            if (message := _usage_text(error)) and _asks_for_json(words):
                print_json({"error": asdict(Failure(code="usage", message=message, remedy=USAGE))})
            if isinstance(error, typer.Exit) or _is_usage(error):
                raise
            if state.debug:
                traceback.print_exc()
            failure, code = explain(error)
            show_failure(failure, state.output)
            raise typer.Exit(code) from None
        except KeyboardInterrupt:
            show_failure(
                Failure(
                    code="interrupted",
                    message="interrupted",
                    remedy="`petavoxel run rerun last` goes on with a run",
                ),
                state_of(ctx).output,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def explain(error: Exception) -> tuple[Failure, ExitCode]:
    """What to tell about an exception, and the exit code."""
    from flows.errors import FlowsError
    from flows.remote import explain as explain_answer
    from flows.remote import from_sdk
    from functions.model.errors import PetavoxelError

    if isinstance(error, (PetavoxelError, FlowsError)):
        return _with_remedy(error.code, str(error), error.remedy), ExitCode.PUT_RIGHT
    if from_sdk(error):
        told = explain_answer(error)
        return _with_remedy(told.code, str(told), told.remedy), ExitCode.PUT_RIGHT
    if _of_ffn(error):
        message, _, remedy = str(error).rpartition("; ")
        return Failure(code="model", message=message or remedy, remedy=remedy), ExitCode.PUT_RIGHT
    if isinstance(error, OSError) and error.filename:
        return (
            Failure(
                code="file",
                message=f"{error.filename}: {error.strerror}",
                remedy="check that it exists and that you may read and write there",
            ),
            ExitCode.PUT_RIGHT,
        )
    return Failure(code="bug", message=f"{type(error).__name__}: {error}", remedy=TRACKER), ExitCode.BUG


def _with_remedy(code: str, text: str, remedy: str) -> Failure:
    message = text.removesuffix(f"; {remedy}") if remedy else text
    return Failure(code=code, message=message, remedy=remedy)


def _of_ffn(error: Exception) -> bool:
    """ffn raises plain ValueError subclasses; they are told by name so that torch stays unloaded."""
    return any(
        kind.__module__.startswith("ffn.") and issubclass(kind, ValueError) for kind in type(error).__mro__
    )


def _is_usage(error: Exception) -> bool:
    """Errors of the command line, which the parser itself shows, with its exit code 2."""
    return isinstance(error, (typer.BadParameter, typer.Abort)) or hasattr(error, "exit_code")


def _usage_text(error: Exception) -> str:
    """The parser's complaint about the command line; empty for other errors."""
    tell = getattr(error, "format_message", None)
    return str(tell()) if tell else ""


def _asks_for_json(words: Sequence[str]) -> bool:
    """Whether these words ask for JSON; read here since a line that does not parse sets no option."""
    pairs = pairwise(words)
    return "--output=json" in words or any(name in ("--output", "-o") and to == "json" for name, to in pairs)
