"""Pages of lists: by marker as Flows does it, by offset as Transfer and Search do."""

from __future__ import annotations

from starlette.datastructures import QueryParams

from flows.local.http.errors import ApiError


def number(query: QueryParams, name: str, *, default: int, least: int = 0, most: int) -> int:
    """A number of the query.

    Raises:
        ApiError: it is none, or out of bounds.
    """
    text = query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or not least <= int(text) <= most:
        raise ApiError(
            422,
            "UNPROCESSABLE_ENTITY",
            [{"loc": ["query", name], "msg": f"a number from {least} to {most} is needed", "type": "value"}],
            message=f"{name}: a number from {least} to {most} is needed",
        )
    return int(text)


def words(query: QueryParams, name: str) -> list[str]:
    """A comma-joined list of the query."""
    return [word for text in query.getlist(name) for word in text.split(",") if word]
