"""The base of everything that crosses a border: frozen, strict about names, parsed once."""

from __future__ import annotations

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from functions.model.errors import TaskError


class Document(BaseModel):
    """A frozen document; unknown fields are refused and errors name the field."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, payload: object, *, source: str) -> Self:
        """Parse a JSON-like object, or JSON text, that came from outside.

        Raises:
            TaskError: naming `source` and each field that does not fit.
        """
        try:
            if isinstance(payload, (str, bytes)):
                return cls.model_validate_json(payload)
            return cls.model_validate(payload)
        except ValidationError as error:
            raise TaskError(f"{source}: {describe(error)}", remedy="correct the named fields") from None

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return self.model_dump(mode="json")


def describe(error: ValidationError) -> str:
    """One line per wrong field: `sections[3].tiles[0].path: Field required`."""
    lines = []
    for item in error.errors(include_url=False):
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in item["loc"]).lstrip(".")
        lines.append(f"{place or 'document'}: {item['msg']}")
    return "; ".join(lines)
