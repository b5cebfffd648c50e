"""What a state can rely on: the paths that every way to it has written.

A forward must-analysis over the definition's edges. Known paths form a tree: a leaf is opaque (anything may
lie under it: an action's result), a node with children knows its keys.

    input schema ─► StartAt ─► state: tree + ResultPath ─► meet over all ways in ─► ... until nothing changes
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from flows.paths import PathError, Token, parse_path
from flows.states import State

CONTEXT_KEYS = ("flow_id", "run_id", "username", "email", "user_id", "identities", "token_info")


@dataclass(frozen=True, slots=True)
class Known:
    """A tree of known paths; `keys` None: opaque, everything below is taken for present."""

    keys: dict[str, Known] | None = None

    def has(self, tokens: tuple[Token, ...]) -> bool:
        """Whether the path is known to be there; indices are taken on trust."""
        node = self
        for token in tokens:
            if node.keys is None:
                return True
            if isinstance(token, int):
                continue
            if token not in node.keys:
                return False
            node = node.keys[token]
        return True

    def with_path(self, tokens: tuple[Token, ...], value: Known) -> Known:
        """The tree with `value` at a path."""
        if not tokens:
            return value
        keys = dict(self.keys or {})
        below = keys.get(str(tokens[0]), Known({}))
        keys[str(tokens[0])] = below.with_path(tokens[1:], value)
        return Known(keys)

    def meet(self, other: Known) -> Known:
        """What both know."""
        if self.keys is None:
            return other
        if other.keys is None:
            return self
        return Known({k: v.meet(other.keys[k]) for k, v in self.keys.items() if k in other.keys})


OPAQUE = Known()


@dataclass(frozen=True, slots=True)
class BrokenExpression:
    """An expression that does not parse."""

    message: str


def known_from_schema(schema: dict[str, Any]) -> Known:
    """The required properties of an input schema."""
    if schema.get("type") != "object" or "properties" not in schema:
        return OPAQUE
    required = schema.get("required", [])
    return Known({name: known_from_schema(schema["properties"][name]) for name in required})


def optional_from_schema(schema: dict[str, Any], tokens: tuple[Token, ...]) -> Known:
    """What lies under an optional property once it is known to be present."""
    for token in tokens:
        schema = schema.get("properties", {}).get(token, {})
    return known_from_schema(schema)


def available_paths(definition: dict[str, Any], schema: dict[str, Any]) -> dict[str, Known]:
    """Known paths on entry of every reachable state."""
    context = Known(dict.fromkeys(CONTEXT_KEYS, OPAQUE))
    entry = known_from_schema(schema).with_path(("_context",), context)
    at: dict[str, Known] = {definition["StartAt"]: entry}
    todo = [definition["StartAt"]]
    while todo:
        name = todo.pop()
        for target, known in _edges(definition["States"][name], at[name], schema):
            merged = known if target not in at else at[target].meet(known)
            if target not in at or merged != at[target]:
                at[target] = merged
                todo.append(target)
    return at


def successors(state: State) -> list[str]:
    """Names of the states that may follow."""
    rules = [rule["Next"] for rule in state.get("Choices", [])]
    catches = [catch["Next"] for catch in state.get("Catch", [])]
    return [*rules, *catches, *(state[key] for key in ("Default", "Next") if key in state)]


def _edges(state: State, known: Known, schema: dict[str, Any]) -> Iterator[tuple[str, Known]]:
    """Where a state leads, and what is known there."""
    if state["Type"] == "Choice":
        for rule in state.get("Choices", []):
            yield rule["Next"], _assumed(rule, known, schema)
        if "Default" in state:
            yield state["Default"], known
        return
    for catch in state.get("Catch", []):
        yield catch["Next"], _written(known, catch.get("ResultPath", "$"), OPAQUE)
    if "Next" in state:
        yield state["Next"], known if state["Type"] == "Wait" else _after(state, known)


def _after(state: State, known: Known) -> Known:
    result = OPAQUE
    if state["Type"] in ("Pass", "ExpressionEval") and "Parameters" in state:
        result = Known({_bare(key): OPAQUE for key in state["Parameters"]})
    return _written(known, state.get("ResultPath", "$"), result)


def _written(known: Known, path: str | None, value: Known) -> Known:
    if path is None:
        return known
    try:
        tokens = parse_path(path)
    except PathError:
        return known
    if tokens:
        return known.with_path(tokens, value)
    context = (known.keys or {}).get("_context", OPAQUE)
    return Known({**(value.keys or {}), "_context": context})


def _assumed(rule: State, known: Known, schema: dict[str, Any]) -> Known:
    """IsPresent: true makes its Variable known behind that rule."""
    for part in rule.get("And", [rule]):
        if part.get("IsPresent") is True:
            try:
                tokens = parse_path(part["Variable"])
            except PathError:
                continue
            if not known.has(tokens):
                known = known.with_path(tokens, optional_from_schema(schema, tokens))
    return known


# -- what a state reads ------------------------------------------------------------------------------------
def reads_of(state: State) -> Iterator[str | BrokenExpression]:
    """Every path the state reads, those inside expressions included."""
    for key in ("InputPath", "SecondsPath", "TimestampPath", "CausePath", "ErrorPath"):
        if key in state:
            yield state[key]
    yield from _parameter_reads(state.get("Parameters", {}))
    for rule in state.get("Choices", []):
        yield from _rule_reads(rule)


def _rule_reads(rule: State) -> Iterator[str]:
    for part in [*rule.get("And", []), *rule.get("Or", [])]:
        yield from _rule_reads(part)
    if "Not" in rule:
        yield from _rule_reads(rule["Not"])
    if "Variable" in rule and "IsPresent" not in rule:
        yield rule["Variable"]
    for key, value in rule.items():
        if key.endswith("Path") and isinstance(value, str):
            yield value


def _parameter_reads(node: Any) -> Iterator[str | BrokenExpression]:
    if isinstance(node, list):
        for item in node:
            yield from _parameter_reads(item)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key.endswith(".$"):
                yield value
            elif key.endswith(".="):
                yield from expression_reads(value)
            else:
                yield from _parameter_reads(value)


def expression_reads(expression: str) -> Iterator[str | BrokenExpression]:
    """Paths that an expression reads directly; `getattr` and `is_present` are safe and read none."""
    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except SyntaxError as error:
        yield BrokenExpression(f"{expression!r}: {error.msg}")
        return
    bound = {
        name.id
        for node in ast.walk(tree)
        if isinstance(node, ast.comprehension)
        for name in ast.walk(node.target)
        if isinstance(name, ast.Name)
    }
    functions = {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, (ast.Attribute, ast.Subscript))}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute, ast.Subscript)) and id(node) not in inner:
            path = _chain(node)
            if path is not None and path.split(".")[1].split("[")[0] not in bound | functions:
                yield path


def _chain(node: ast.expr) -> str | None:
    """`a.b[0]['c']` as a path; None when it does not begin with a name."""
    if isinstance(node, ast.Name):
        return f"$.{node.id}"
    if isinstance(node, ast.Attribute):
        inner = _chain(node.value)
        return None if inner is None else f"{inner}.{node.attr}"
    if isinstance(node, ast.Subscript):
        inner = _chain(node.value)
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if inner is None or not isinstance(index, (str, int)):
            return inner
        return f"{inner}[{index}]" if isinstance(index, int) else f"{inner}['{index}']"
    return None


def _bare(key: str) -> str:
    return key.removesuffix(".$").removesuffix(".=")
