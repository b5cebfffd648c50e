"""Each rule on a definition that breaks only it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.definition import definition
from flows.lint import RULES, lint, state_size_bytes
from flows.schema import input_schema

SCHEMA = input_schema()
DEFINITION = definition()


def broken(change) -> list[tuple[str, str]]:
    document = definition()
    change(document)
    return [(finding.rule, finding.state) for finding in lint(document, schema=SCHEMA)]


def rename_start(d):
    d["StartAt"] = "Nowhere"


def orphan(d):
    d["States"]["Orphan"] = {"Type": "Pass", "Parameters": {}, "ResultPath": "$.orphan", "End": True}


def wrong_target(d):
    d["States"]["IngestVerdict"]["Next"] = "Ingset"


def no_next(d):
    del d["States"]["Finished"]["End"]


def both_next_and_end(d):
    d["States"]["IngestVerdict"]["End"] = True


def parallel(d):
    d["States"]["Finished"]["Type"] = "Parallel"


def unwritten(d):
    d["States"]["Segment"]["Parameters"]["tasks.$"] = "$.segment_plan.details.result[0].tasks"


def written_on_one_way_only(d):
    """`$.transfer_in` is not there when the run starts later."""
    d["States"]["Finished"]["Parameters"] = {"ok.$": "$.transfer_in.details.files"}


def unknown_input(d):
    d["States"]["Ingest"]["Parameters"]["endpoint_id.$"] = "$.input.compute.endpoint"


def optional_input_unasked(d):
    d["States"]["SearchWanted"]["Choices"] = [
        {"Variable": "$.input.label", "IsPresent": True, "Next": "SearchIngest"}
    ]


def unwritten_in_expression(d):
    d["States"]["LocateBundle"]["Parameters"]["path.="] = "input.publication.path + '/' + run_id"


def dead_transfer(d):
    d["States"]["TransferIn"]["ActionUrl"] = "https://actions.globus.org/transfer/transfer"


def dead_transfer_of_automate(d):
    d["States"]["TransferIn"]["ActionUrl"] = "https://actions.automate.globus.org/transfer/transfer"


def no_wait_time(d):
    del d["States"]["Stitch"]["WaitTime"]


def no_result_path(d):
    del d["States"]["ProbePublished"]["ResultPath"]


def no_exception(d):
    del d["States"]["Stitch"]["ExceptionOnActionFailure"]


def every_fan_out_its_own_path(d):
    d["States"]["Match"]["ResultPath"] = "$.matched"
    d["States"]["Segment"]["ResultPath"] = "$.segmented"
    d["States"]["Stitch"]["ResultPath"] = "$.stitched"


def public(d):
    del d["States"]["SearchIngest"]["Parameters"]["visible_to.$"]
    d["States"]["SearchIngest"]["Parameters"]["visible_to"] = ["public"]


def secret(d):
    d["States"]["SearchIngest"]["Parameters"]["password"] = "hunter2"


def secret_in_logs(d):
    d["States"]["SearchIngest"]["Parameters"]["api_key.$"] = "$.input.label"


CASES = [
    (rename_start, "start", ""),
    (orphan, "unreachable", "Orphan"),
    (wrong_target, "target", "IngestVerdict"),
    (no_next, "next", "Finished"),
    (both_next_and_end, "next", "IngestVerdict"),
    (parallel, "type", "Finished"),
    (unwritten, "path", "Segment"),
    (written_on_one_way_only, "path", "Finished"),
    (unknown_input, "path", "Ingest"),
    (optional_input_unasked, "path", "SearchIngest"),
    (unwritten_in_expression, "path", "LocateBundle"),
    (dead_transfer, "dead-url", "TransferIn"),
    (dead_transfer_of_automate, "dead-url", "TransferIn"),
    (no_wait_time, "wait-time", "Stitch"),
    (no_result_path, "result-path", "ProbePublished"),
    (no_exception, "exception", "Stitch"),
    (every_fan_out_its_own_path, "size", ""),
    (public, "public", "SearchIngest"),
    (secret, "secret", "SearchIngest"),
    (secret_in_logs, "secret", "SearchIngest"),
]


def test_the_flow_has_no_finding():
    assert lint(DEFINITION, schema=SCHEMA) == []


@pytest.mark.parametrize(("change", "rule", "state"), CASES, ids=[case[0].__name__ for case in CASES])
def test_names_rule_and_state(change, rule, state):
    assert (rule, state) in broken(change)


def test_every_rule_has_a_case():
    assert {rule for _, rule, _ in CASES} == set(RULES)


def test_every_finding_has_a_remedy():
    document = definition()
    for change, _, _ in CASES[1:2] + CASES[11:]:
        change(document)
    assert all(finding.remedy and finding.message for finding in lint(document, schema=SCHEMA))


def test_size_grows_with_shards():
    sizes = [state_size_bytes(DEFINITION["States"], shards=shards) for shards in (1, 50, 200)]
    assert sizes == sorted(sizes)
    assert sizes[-1] < 200_000 < state_size_bytes(DEFINITION["States"], shards=800)


def test_presence_asked_makes_optional_input_known():
    document: dict[str, Any] = {
        "StartAt": "Asked",
        "States": {
            "Asked": {
                "Type": "Choice",
                "Choices": [{"Variable": "$.input.search", "IsPresent": True, "Next": "Use"}],
                "Default": "End",
            },
            "Use": {
                "Type": "Pass",
                "Parameters": {"a.$": "$.input.search.index"},
                "ResultPath": "$.used",
                "Next": "End",
            },
            "End": {"Type": "Pass", "Parameters": {}, "ResultPath": "$.end", "End": True},
        },
    }
    assert lint(document, schema=SCHEMA) == []


ACTIONS = sorted(name for name, state in DEFINITION["States"].items() if state["Type"] == "Action")
STATES = sorted(set(DEFINITION["States"]) - {"StartAt"})


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(ACTIONS), st.sampled_from(["WaitTime", "ResultPath", "ExceptionOnActionFailure"]))
def test_a_missing_field_is_found_in_any_action(name, field):
    assert any(state == name for _, state in broken(lambda d: d["States"][name].pop(field)))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(STATES))
def test_a_removed_state_is_missed_by_who_leads_to_it(name):
    assert "target" in {rule for rule, _ in broken(lambda d: d["States"].pop(name))}


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(STATES), st.sampled_from(["$.nothing.at.all", "$.input.nothing", "$.verdict_of_none"]))
def test_an_unwritten_path_is_found_in_any_state(name, path):
    def read_it(document):
        state = document["States"][name]
        if state["Type"] == "Choice":
            state["Choices"][0]["Variable"] = path
            state["Choices"][0].pop("IsPresent", None)
            state["Choices"][0]["StringEquals"] = "x"
        elif state["Type"] == "Fail":
            state["CausePath"] = path
        else:
            state["Parameters"]["more.$"] = path

    assert ("path", name) in broken(read_it)


@pytest.mark.parametrize(
    "state",
    [
        {"Type": "Action", "Parameters": [1], "End": True},
        {"Type": "Pass", "Parameters": {}, "ResultPath": "$.a", "Next": ["a"]},
        {"Type": "Choice", "Choices": {}, "Default": "a"},
        {"Type": "Choice", "Choices": [{"Variable": "$.input.label"}], "Default": "a"},
        {"Type": "Action", "ActionUrl": 5, "End": True},
    ],
)
def test_fields_of_another_type_are_findings(state: dict[str, Any]) -> None:
    findings = lint({"StartAt": "a", "States": {"a": state}}, schema=SCHEMA)
    assert [(finding.rule, finding.state) for finding in findings] == [("type", "a")]
