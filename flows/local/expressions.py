"""Parameters of states: constants, `key.$` paths and `key.=` expressions, at any depth."""

from __future__ import annotations

from typing import Any

from simpleeval import EvalWithCompoundTypes, InvalidExpression

from flows.paths import PathError, has_path, read_path

PRIVATE = "__Private_Parameters"
CONTEXT = "_context"


class EvaluationError(ValueError):
    """A parameter could not be made from the state; the text names the key."""


def evaluate(parameters: Any, *, state: dict[str, Any], context: dict[str, Any]) -> Any:
    """Parameters with every path and expression replaced by its value.

    Raises:
        EvaluationError: naming the key, the path or expression, and why.
    """
    return _evaluated(parameters, {**state, CONTEXT: context})


def _evaluated(node: Any, names: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_evaluated(item, names) for item in node]
    if not isinstance(node, dict):
        return node
    result: dict[str, Any] = {}
    for key, value in node.items():
        if key == PRIVATE:
            continue
        try:
            if key.endswith(".$"):
                result[key[:-2]] = read_path(names, value)
            elif key.endswith(".="):
                result[key[:-2]] = calculate(value, names)
            else:
                result[key] = _evaluated(value, names)
        except PathError as error:
            raise EvaluationError(f"{key}: {error}") from None
    return result


def calculate(expression: str, names: dict[str, Any]) -> Any:
    """Value of an expression in simpleeval's syntax over the state's keys.

    The functions are those that Globus Flows documents; `range` and the like are not there.

    Raises:
        EvaluationError: with the expression and what is wrong with it.
    """

    def is_present(path: str) -> bool:
        return has_path(names, f"$.{path}")

    def get(path: str, default: Any = None) -> Any:
        return read_path(names, f"$.{path}") if is_present(path) else default

    functions = {"pathsplit": _pathsplit, "is_present": is_present, "getattr": get}
    try:
        return EvalWithCompoundTypes(names=names, functions=functions).eval(expression)
    except (
        InvalidExpression,
        SyntaxError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        ArithmeticError,
    ) as error:
        raise EvaluationError(f"{expression!r}: {type(error).__name__}: {error}") from None


def _pathsplit(path: str) -> list[str]:
    """Folder and last part of a path, as os.path.split does on POSIX."""
    head, _, tail = path.rpartition("/")
    return [head or ("/" if path.startswith("/") else ""), tail]


def hidden_keys(parameters: dict[str, Any]) -> set[str]:
    """Names of the parameters that logs must not show."""
    names = parameters.get(PRIVATE, [])
    return {name.removesuffix(".$").removesuffix(".=") for name in names}


def redact(document: Any, hidden: set[str] = frozenset()) -> Any:  # type: ignore[assignment]
    """The document for a log: private parameters and `_private` keys blotted out."""
    if isinstance(document, list):
        return [redact(item, hidden) for item in document]
    if not isinstance(document, dict):
        return document
    return {
        key: "********" if key in hidden or key.startswith("_private") else redact(value, hidden)
        for key, value in document.items()
    }
