"""Offline checks of a flow definition: what the service would refuse, and what would fail only later.

    StartAt ─► reachable? ─► fields explicit? ─► every path read written before, on every way? ─► size

Rules are listed in RULES; each finding names the state and says what to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from flows.dataflow import BrokenExpression, available_paths, reads_of, successors
from flows.paths import PathError, parse_path
from flows.states import COMPUTE, State, States
from functions.tasks import MAX_SHARDS, SHARD_RESULT_BYTES

Severity = Literal["error", "warning"]
RULES = {
    "start": "StartAt names a state",
    "unreachable": "every state can be reached",
    "target": "Next, Default and Catch lead to states",
    "next": "a state has exactly one of Next and End",
    "type": "Type is one of the flow language, fields have the type it gives them",
    "path": "a path that is read was written on every way to it",
    "dead-url": "action URLs are alive",
    "wait-time": "every Action says how long it may take",
    "result-path": "results say where they go",
    "exception": "every Action says whether its failure raises",
    "size": "the state stays under 200 KB",
    "public": "nothing is public",
    "secret": "no secret stands in clear",
}
STATE_LIMIT_BYTES = 200_000
TYPES = ("Action", "Choice", "Pass", "Wait", "ExpressionEval", "Fail", "CreateWebInput", "AwaitWebInput")
_FIELDS: dict[str, tuple[type, str]] = {
    "Parameters": (dict, "an object"),
    "Choices": (list, "a list"),
    "Catch": (list, "a list"),
    "Next": (str, "a name"),
    "Default": (str, "a name"),
    "ResultPath": (str, "a path"),
    "ActionUrl": (str, "an address"),
}
_DEAD = re.compile(r"^https://actions\.(automate\.)?globus\.org/transfer(/|$)")
_SECRET_KEY = re.compile(r"(password|secret|token|credential|api_?key|private_key)", re.IGNORECASE)
_PUBLIC = ("public", "all_authenticated_users", "anonymous")
_PUBLIC_KEYS = ("visible_to", "principal", "principal_type", "flow_viewers", "flow_starters")

PATH_BYTES = 120
INPUT_BYTES = 6_000
PLANNED_TASK_BYTES = 110 + PATH_BYTES
SINGLE_BYTES = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something wrong with a definition."""

    rule: str
    state: str
    message: str
    remedy: str
    severity: Severity = "error"

    def __str__(self) -> str:
        return f"{self.state or 'definition'}: {self.message} [{self.rule}]; {self.remedy}"


def lint(definition: dict[str, Any], *, schema: dict[str, Any], shards: int = MAX_SHARDS) -> list[Finding]:
    """All findings, in the order of the states. `schema` is the flow's input schema."""
    states: States = definition.get("States", {})
    start = definition.get("StartAt")
    if start not in states:
        return [_finding("start", "", f"StartAt {start!r} is not a state", "name the first state")]
    if shapes := [finding for name, state in states.items() for finding in _shapes(name, state)]:
        return shapes  # the rest reads these fields
    structure = [finding for name, state in states.items() for finding in _structure(name, state, states)]
    if any(finding.rule in ("target", "type") for finding in structure):
        return structure  # the rest follows the edges
    findings = [*structure, *_unreachable(states, start)]
    for name, state in states.items():
        findings += [*_explicit(name, state), *_exposed(name, state)]
    findings += _unproduced(definition, schema)
    findings += _size(states, shards)
    order = list(states)
    return sorted(findings, key=lambda finding: order.index(finding.state) if finding.state in order else -1)


def _finding(rule: str, state: str, message: str, remedy: str, severity: Severity = "error") -> Finding:
    return Finding(rule=rule, state=state, message=message, remedy=remedy, severity=severity)


# -- structure ----------------------------------------------------------------------------------------------
def _shapes(name: str, state: State) -> Iterator[Finding]:
    """Fields that are not of the JSON type that the language gives them."""
    for field, (kind, word) in _FIELDS.items():
        if field in state and not isinstance(state[field], kind):
            yield _finding("type", name, f"{field} is not {word}", f"write {word}")
    for field in ("Choices", "Catch"):
        entries = state.get(field, [])
        if isinstance(entries, list) and not all(
            isinstance(entry, dict) and isinstance(entry.get("Next"), str) for entry in entries
        ):
            yield _finding("type", name, f"{field}: an entry names no Next", "give each entry a Next")


def _structure(name: str, state: State, states: States) -> Iterator[Finding]:
    kind = state.get("Type")
    if kind not in TYPES:
        yield _finding("type", name, f"Type {kind!r} is unknown", f"use one of {', '.join(TYPES)}")
        return
    if not 1 <= len(name) <= 128:
        yield _finding("type", name, "the name is longer than 128 characters", "shorten it")
    for target in successors(state):
        if target not in states:
            yield _finding("target", name, f"leads to {target!r}, which is no state", "correct the name")
    if kind in ("Choice", "Fail"):
        if "Next" in state or "End" in state:
            yield _finding("next", name, f"a {kind} has neither Next nor End", "remove it")
        if kind == "Choice" and "Default" not in state:
            yield _finding(
                "next", name, "no Default: when no rule holds the run fails", "add a Default", "warning"
            )
    elif ("Next" in state) == (state.get("End") is True):
        yield _finding("next", name, "needs exactly one of Next and End", "add Next, or End: true")


def _unreachable(states: States, start: str) -> list[Finding]:
    reached, todo = {start}, [start]
    while todo:
        new = [target for target in successors(states[todo.pop()]) if target not in reached]
        reached.update(new)
        todo += new
    return [
        _finding("unreachable", name, "no state leads here", "lead a state to it, or remove it")
        for name in states
        if name not in reached
    ]


# -- single states ------------------------------------------------------------------------------------------
def _explicit(name: str, state: State) -> Iterator[Finding]:
    kind = state["Type"]
    if kind in ("Action", "Pass", "ExpressionEval") and "ResultPath" not in state:
        yield _finding(
            "result-path", name, "no ResultPath: the result would replace the whole state", "add a ResultPath"
        )
    if kind != "Action":
        return
    for catch in state.get("Catch", []):
        if "ResultPath" not in catch:
            yield _finding(
                "result-path", name, "Catch has no ResultPath: the error would replace the state", "add one"
            )
    if "WaitTime" not in state:
        yield _finding(
            "wait-time",
            name,
            "no WaitTime: it would time out after 300 s",
            "add WaitTime in seconds, queue wait included",
        )
    if "ExceptionOnActionFailure" not in state:
        yield _finding(
            "exception", name, "ExceptionOnActionFailure is not written", "write it; true, to reach Catch"
        )
    url = state.get("ActionUrl", "")
    if _DEAD.match(url):
        yield _finding(
            "dead-url",
            name,
            f"{url} was shut off on 2025-01-22",
            "use https://transfer.actions.globus.org/..., with DATA and source_endpoint",
        )
    elif "Handler" not in state and not url.startswith("https://"):
        yield _finding("dead-url", name, f"ActionUrl {url!r} is not https", "correct it")


def _exposed(name: str, state: State) -> Iterator[Finding]:
    """Public visibility and secrets, written as constants in Parameters."""
    for keys, value in _constants(state.get("Parameters", {})):
        named = [key for key in keys if isinstance(key, str)]
        last = named[-1] if named else ""
        if value in _PUBLIC and any(key in _PUBLIC_KEYS for key in named):
            yield _finding(
                "public", name, f"{last}: {value!r}", "name an identity or a group; let the input decide"
            )
        if isinstance(value, str) and value and _SECRET_KEY.search(last):
            yield _finding(
                "secret", name, f"{last} stands in clear", "read it from a _private input or on the site"
            )
    private = state.get("Parameters", {}).get("__Private_Parameters", [])
    for key, value in state.get("Parameters", {}).items():
        bare = key.removesuffix(".$").removesuffix(".=")
        if bare != key and _SECRET_KEY.search(bare) and bare not in private and "_private" not in str(value):
            yield _finding("secret", name, f"{bare} shows in logs", "list it in __Private_Parameters")


def _constants(node: Any, keys: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            if not key.endswith((".$", ".=")) and key != "__Private_Parameters":
                yield from _constants(value, (*keys, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _constants(value, (*keys, index))
    else:
        yield keys, node


# -- data ---------------------------------------------------------------------------------------------------
def _unproduced(definition: dict[str, Any], schema: dict[str, Any]) -> Iterator[Finding]:
    """Paths that some way to the state does not write."""
    at = available_paths(definition, schema)
    for name, state in definition["States"].items():
        if name not in at:
            continue  # unreachable: said already
        for read in reads_of(state):
            if isinstance(read, BrokenExpression):
                yield _finding("path", name, read.message, "correct the expression")
                continue
            try:
                tokens = parse_path(read)
            except PathError as error:
                yield _finding("path", name, str(error), "correct the path")
                continue
            if not at[name].has(tokens):
                yield _finding(
                    "path",
                    name,
                    f"{read} is not there on every way to this state",
                    "write it in an earlier state, require it in the input, or ask IsPresent first",
                )


def _size(states: States, shards: int) -> list[Finding]:
    total = state_size_bytes(states, shards=shards)
    if total <= STATE_LIMIT_BYTES:
        return []
    return [
        _finding(
            "size",
            "",
            f"about {total // 1000} KB of state at {shards} shards, over {STATE_LIMIT_BYTES // 1000} KB",
            "let fan-outs share a ResultPath, or plan fewer shards",
        )
    ]


def state_size_bytes(states: States, *, shards: int) -> int:
    """Estimated size of the largest state: the input and the largest result at each ResultPath.

    A Compute action stores each output twice (`result` and `results`).
    """
    largest: dict[str, int] = {}
    for state in states.values():
        if state["Type"] != "Action":
            continue
        path = str(state.get("ResultPath", "$"))
        parameters = state.get("Parameters", {})
        size = SINGLE_BYTES
        if '"function_id.$": "$.input.compute.functions.plan"' in json.dumps(state):
            size = 2 * (shards * PLANNED_TASK_BYTES + SINGLE_BYTES)
        elif state.get("ActionUrl") == COMPUTE and "tasks.$" in parameters:
            size = 2 * shards * SHARD_RESULT_BYTES + shards * 60
        elif state.get("ActionUrl") == COMPUTE:
            size = 2 * SINGLE_BYTES
        largest[path] = max(largest.get(path, 0), size)
    return INPUT_BYTES + sum(largest.values())
