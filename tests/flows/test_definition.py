"""The definition, as checked in."""

from __future__ import annotations

import json
import re
from pathlib import Path

from flows.definition import FIRST_STATES, definition, state_steps
from flows.records import FLOW_STEPS
from flows.schema import input_schema
from functions.tasks import FAN_OUTS, STEPS

GOLDEN = Path(__file__).parents[1] / "golden"


def golden(name: str, document: object) -> None:
    """Compare with the golden file; `python -m tests.flows.test_definition` accepts a change."""
    assert json.loads((GOLDEN / name).read_text()) == document, f"{name} differs"


def test_equals_the_golden_definition():
    golden("flow_definition.json", definition())


def test_equals_the_golden_input_schema():
    golden("flow_input_schema.json", input_schema())


def test_holds_no_uuid():
    assert not re.search(r"[0-9a-f]{8}-[0-9a-f]{4}-", json.dumps(definition()))


def test_each_step_can_be_the_first_and_the_last():
    states = definition()["States"]
    starts = {rule["StringEquals"]: rule["Next"] for rule in states["StartAt"]["Choices"]}
    starts["transfer"] = states["StartAt"]["Default"]
    assert starts == FIRST_STATES
    stops = {
        rule["StringEquals"]
        for state in states.values()
        for rule in state.get("Choices", [])
        if rule.get("Variable") == "$.input.stop_after"
    }
    assert stops == set(FLOW_STEPS) - {"publish"}


def test_fan_outs_take_their_tasks_from_their_plan():
    states = definition()["States"]
    fans = [state for state in states.values() if "tasks.$" in state.get("Parameters", {})]
    assert len(fans) == len(FAN_OUTS)
    assert {fan["Parameters"]["tasks.$"] for fan in fans} == {"$.fan_out.details.result[0].tasks"}


def test_only_the_gate_behind_align_solve_refuses_and_the_input_may_overrule_it():
    states = definition()["States"]
    refusing = {
        name: rule
        for name, state in states.items()
        for rule in state.get("Choices", [])
        if rule["Next"] == "RegistrationRefused"
    }
    assert list(refusing) == ["AlignSolveDone"]
    asked = {part["Variable"] for part in refusing["AlignSolveDone"]["And"]}
    assert asked == {"$.verdict.failed", "$.input.on_gate_fail"}
    assert states["AlignSolveCaught"]["Next"] == "Failed"  # a step that raised is no verdict
    assert "on_gate_fail" in input_schema()["properties"]["input"]["required"]


def test_every_state_but_the_ends_belongs_to_a_step():
    steps = state_steps()
    assert set(definition()["States"]) - set(steps) == {"StartAt", "Finished", "Failed"}
    assert set(steps.values()) == {"transfer", *STEPS}


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, document in (("flow_definition", definition()), ("flow_input_schema", input_schema())):
        (GOLDEN / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
