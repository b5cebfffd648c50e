"""The reference paths of the flow language: `$.plan.details.result[0].tasks`, `$['a key'].b`."""

from __future__ import annotations

import re
from typing import Any

_TOKEN = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]*)|\[(\d+)\]|\['([^']*)'\]")
Token = str | int


class PathError(ValueError):
    """A path that does not parse, or that leads to nothing in this state."""


def parse_path(path: str) -> tuple[Token, ...]:
    """Keys and indices of a path; `$` alone is the whole state.

    Raises:
        PathError: naming the place where it stops being a path.
    """
    if not path.startswith("$"):
        raise PathError(f"{path!r}: a path starts with $")
    tokens: list[Token] = []
    position = 1
    while position < len(path):
        match = _TOKEN.match(path, position)
        if match is None:
            raise PathError(f"{path!r}: not a path from {path[position:]!r} on")
        key, index, quoted = match.groups()
        tokens.append(int(index) if index is not None else key or quoted)
        position = match.end()
    return tuple(tokens)


def read_path(document: Any, path: str) -> Any:
    """The value at `path`.

    Raises:
        PathError: there is none; names the first part that is missing.
    """
    value = document
    for token in parse_path(path):
        try:
            value = value[token]
        except (KeyError, IndexError, TypeError):
            raise PathError(f"{path}: the state has no {token!r} there") from None
    return value


def has_path(document: Any, path: str) -> bool:
    """Whether there is a value at `path`."""
    try:
        read_path(document, path)
    except PathError:
        return False
    return True


def write_path(document: Any, path: str | None, value: Any) -> Any:
    """A new state with `value` at `path` (keys only); `$` replaces the state, None leaves it."""
    if path is None:
        return document
    return _placed(document, parse_path(path), value, path)


def _placed(document: Any, tokens: tuple[Token, ...], value: Any, path: str) -> Any:
    if not tokens:
        return value
    key = tokens[0]
    if not isinstance(key, str):
        raise PathError(f"{path}: a ResultPath has no index")
    base = document if isinstance(document, dict) else {}
    return {**base, key: _placed(base.get(key), tokens[1:], value, path)}
