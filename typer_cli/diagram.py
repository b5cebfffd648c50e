"""A flow definition as a Mermaid state diagram."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

State = dict[str, Any]


def mermaid(definition: State) -> str:
    """States and transitions; a Choice is drawn as a diamond, Catch as a transition labelled `catch`."""
    states: dict[str, State] = definition["States"]
    lines = ["stateDiagram-v2", f"    [*] --> {definition['StartAt']}"]
    lines += [f"    state {name} <<choice>>" for name, state in states.items() if state["Type"] == "Choice"]
    for name, state in states.items():
        lines += [f"    {name} --> {target}{label}" for target, label in _transitions(state)]
    return "\n".join(lines)


def _transitions(state: State) -> Iterator[tuple[str, str]]:
    seen = set()
    for target, label in _all(state):
        if (target, label) not in seen:
            seen.add((target, label))
            yield target, label


def _all(state: State) -> Iterator[tuple[str, str]]:
    if state["Type"] == "Choice":
        for rule in state["Choices"]:
            yield rule["Next"], ""
        if "Default" in state:
            yield state["Default"], " : else"
    if "Next" in state:
        yield state["Next"], ""
    if state["Type"] == "Fail" or (state.get("End")):
        yield "[*]", ""
    if "Catch" in state:
        for handler in state["Catch"]:
            yield handler["Next"], " : catch"
