"""The comparisons of Choice states."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flows.errors import DefinitionError
from flows.paths import has_path, read_path

Rule = dict[str, Any]
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "Equals": lambda a, b: a == b,
    "LessThan": lambda a, b: a < b,
    "GreaterThan": lambda a, b: a > b,
    "LessThanEquals": lambda a, b: a <= b,
    "GreaterThanEquals": lambda a, b: a >= b,
}
_FIELDS = frozenset({"Variable", "Next", "Comment"})


def holds(rule: Rule, names: dict[str, Any]) -> bool:
    """Whether a rule is true of a state (`names`: the state and `_context`).

    Values of another type than the operator's never compare true. A missing Variable is an error for every
    operator but IsPresent.

    Raises:
        PathError: the Variable or a `...Path` leads to nothing.
        DefinitionError: an operator that does not exist.
    """
    if "And" in rule:
        return all(holds(part, names) for part in rule["And"])
    if "Or" in rule:
        return any(holds(part, names) for part in rule["Or"])
    if "Not" in rule:
        return not holds(rule["Not"], names)
    operator, expected = operator_of(rule)
    if operator == "IsPresent":
        return has_path(names, rule["Variable"]) is bool(expected)
    value = read_path(names, rule["Variable"])
    if operator in _IS:
        return _IS[operator](value) is bool(expected)
    if operator == "StringMatches":
        return isinstance(value, str) and wildcard(expected).fullmatch(value) is not None
    if operator.endswith("Path"):
        operator, expected = operator.removesuffix("Path"), read_path(names, expected)
    kind = next(kind for kind in _CONVERT if operator.startswith(kind))
    left, right = _CONVERT[kind](value), _CONVERT[kind](expected)
    if left is None or right is None:
        return False
    return _COMPARE[operator.removeprefix(kind)](left, right)


def operator_of(rule: Rule) -> tuple[str, Any]:
    """The one operator of a rule and its operand.

    Raises:
        DefinitionError: none, several, or one that does not exist.
    """
    found = [key for key in rule if key not in _FIELDS]
    if len(found) != 1 or found[0] not in OPERATORS:
        raise DefinitionError(
            f"Choice rule {rule}: needs exactly one known operator, has {found}",
            remedy="see the operators of Globus Flows",
        )
    return found[0], rule[found[0]]


def wildcard(pattern: str) -> re.Pattern[str]:
    """StringMatches: `*` stands for any text, `\\*` for a star."""
    parts = re.split(r"(\\\*|\\\\|\*)", pattern)
    return re.compile(
        "".join(".*" if p == "*" else re.escape(p.replace("\\*", "*")) for p in parts), re.DOTALL
    )


def _number(value: Any) -> float | int | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def timestamp(value: Any) -> datetime | None:
    """A moment from ISO 8601 text with a zone; None when it is not one."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else None


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "String": _text,
    "Numeric": _number,
    "Timestamp": timestamp,
    "Boolean": _boolean,
}
_IS: dict[str, Callable[[Any], bool]] = {
    "IsNull": lambda value: value is None,
    "IsNumeric": lambda value: _number(value) is not None,
    "IsString": lambda value: isinstance(value, str),
    "IsBoolean": lambda value: isinstance(value, bool),
    "IsTimestamp": lambda value: timestamp(value) is not None,
}
_COMPARISONS = [f"{kind}{name}" for kind in ("String", "Numeric", "Timestamp") for name in _COMPARE]
OPERATORS = frozenset(
    {*_COMPARISONS, *(f"{name}Path" for name in _COMPARISONS)}
    | {"BooleanEquals", "BooleanEqualsPath", "StringMatches", "IsPresent", *_IS}
)
