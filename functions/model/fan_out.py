"""Settings of the workers of a fan-out step."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from functions.model.base import Document

Size = Annotated[int, Field(gt=0)]
Positive = Annotated[float, Field(gt=0)]


class FanOutParameters(Document):
    """How workers share the units of a fan-out step. Nothing that is computed depends on it."""

    claiming: bool = True
    """Workers claim what nobody has begun, until nothing is left. False deals all units out beforehand: where
    a file system does not create files exclusively."""
    lease_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A worker that gave no sign of life for so long has vanished, and others take over what it held."""
    max_attempts: Size = 3
    """A unit that failed, or ended its worker, so often is put into quarantine."""
    walltime_seconds: Positive | None = None
    """A worker hands on what it has after so long; None: when its batch job ends, where it says when."""
    drain_seconds: Positive = 120.0
    """So long before its end a worker puts away the unit in progress, if it can, and claims no other."""

    @model_validator(mode="after")
    def _time_to_work(self) -> FanOutParameters:
        if self.walltime_seconds is not None and self.walltime_seconds <= self.drain_seconds:
            raise ValueError(
                f"walltime_seconds {self.walltime_seconds:g} leaves no time before drain_seconds"
                f" {self.drain_seconds:g}"
            )
        return self
