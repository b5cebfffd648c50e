"""The flow language, state by state, with fake providers and a fake clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from flows.errors import ActionError
from flows.local.actions import ActionStatus
from flows.local.interpreter import Execution, Interpreter
from flows.records import LogEntry, RunStatus

URL = "https://example.org/action"


@dataclass
class FakeClock:
    time: float = 1_000_000.0

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


@dataclass
class FakeProvider:
    """Answers in turn; the last answer stays."""

    answers: list[ActionStatus] = field(
        default_factory=lambda: [ActionStatus(status="SUCCEEDED", details={"n": 1})]
    )
    started: list[tuple[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    refusal: str = ""

    def start(self, action_id, body) -> None:
        if self.refusal:
            raise ActionError(self.refusal)
        if action_id not in [known for known, _ in self.started]:
            self.started.append((action_id, body))

    def status(self, action_id) -> ActionStatus:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def cancel(self, action_id) -> None:
        self.cancelled.append(action_id)


@dataclass
class FakeJournal:
    saved: list[Execution] = field(default_factory=list)
    entries: list[LogEntry] = field(default_factory=list)
    seen: list[ActionStatus] = field(default_factory=list)
    stop_after: int | None = None
    die_after: int | None = None
    hold: bool = False

    def save(self, execution, entries) -> None:
        self.saved.append(execution)
        self.entries += entries
        if self.die_after is not None and len(self.saved) > self.die_after:
            raise SystemExit

    def progress(self, execution, status) -> None:
        self.seen.append(status)

    def hold_requested(self) -> bool:
        return self.hold

    def stop_requested(self) -> bool:
        return self.stop_after is not None and len(self.saved) > self.stop_after


def run(states, document, *, provider=None, journal=None, clock=None, start=None) -> Execution:
    definition = {"StartAt": start or next(iter(states)), "States": states}
    journal = journal or FakeJournal()
    interpreter = Interpreter(
        definition, {URL: provider or FakeProvider()}, clock=clock or FakeClock(), journal=journal
    )
    return interpreter.run(interpreter.begin(document, context={"run_id": "r1"}))


def an_action(**changes) -> dict[str, Any]:
    return {
        "Type": "Action", "ActionUrl": URL, "Parameters": {"a.$": "$.x"}, "ResultPath": "$.out",
        "WaitTime": 60, "ExceptionOnActionFailure": True, "End": True, **changes,
    }  # fmt: skip


# -- states ----------------------------------------------------------------------------------------
def test_a_missing_variable_fails_the_run():
    states = {
        "C": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.q", "StringEquals": "x", "Next": "C"}],
            "Default": "C",
        }
    }
    ended = run(states, {})
    assert ended.status is RunStatus.FAILED
    assert ended.cause == "C: $.q: the state has no 'q' there"


def test_an_action_gets_its_parameters_and_stores_its_result():
    provider = FakeProvider()
    ended = run({"A": an_action()}, {"x": 7}, provider=provider)
    assert [body for _, body in provider.started] == [{"a": 7}]
    assert ended.status is RunStatus.SUCCEEDED
    assert ended.document["x"] == 7
    assert ended.document["out"]["details"] == {"n": 1}
    assert ended.document["out"]["status"] == "SUCCEEDED"


def test_an_action_may_take_its_body_from_input_path():
    state = an_action(InputPath="$.body")
    del state["Parameters"]
    provider = FakeProvider()
    run({"A": state}, {"body": {"k": 1}}, provider=provider)
    assert provider.started[0][1] == {"k": 1}


def test_an_omitted_result_path_replaces_the_state():
    state = an_action()
    del state["ResultPath"]
    ended = run({"A": state}, {"x": 7})
    assert "x" not in ended.document
    assert ended.document["details"] == {"n": 1}


@pytest.mark.parametrize("kind", ["Pass", "ExpressionEval"])
def test_pass_and_expression(kind):
    states = {"P": {"Type": kind, "Parameters": {"y.=": "x * 2"}, "ResultPath": "$.r", "End": True}}
    assert run(states, {"x": 2}).document == {"x": 2, "r": {"y": 4}}


def test_a_bare_pass_leaves_the_state():
    assert run({"P": {"Type": "Pass", "End": True}}, {"x": 2}).document == {"x": 2}


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"Seconds": 90}, 90),
        ({"SecondsPath": "$.s"}, 30),
        ({"Timestamp": "1970-01-12T13:47:40Z"}, 60),
        ({"TimestampPath": "$.t"}, 60),
        ({"Timestamp": "1970-01-01T00:00:00Z"}, 0),
    ],
)
def test_wait(fields, seconds):
    clock = FakeClock()
    states = {"W": {"Type": "Wait", **fields, "End": True}}
    ended = run(states, {"s": 30, "t": "1970-01-12T13:47:40+00:00"}, clock=clock)
    assert ended.status is RunStatus.SUCCEEDED
    assert clock.time - 1_000_000 == pytest.approx(seconds, abs=1e-6)
    assert ended.document["s"] == 30


def test_fail_takes_its_cause_from_the_state():
    states = {"F": {"Type": "Fail", "ErrorPath": "$.e", "CausePath": "$.c"}}
    ended = run(states, {"e": "E", "c": "the reason"})
    assert (ended.status, ended.cause) == (RunStatus.FAILED, "the reason")


def catching(errors, result_path="$.error"):
    catch = {"ErrorEquals": errors, "Next": "Caught"}
    if result_path:
        catch["ResultPath"] = result_path
    return {
        "A": an_action(Catch=[catch]),
        "Caught": {"Type": "Pass", "Parameters": {"ok": True}, "ResultPath": "$.caught", "End": True},
    }


@pytest.mark.parametrize(
    ("provider", "error"),
    [
        (FakeProvider([ActionStatus(status="FAILED", cause="disk full")]), "ActionFailedException"),
        (FakeProvider([ActionStatus(status="ACTIVE")]), "ActionTimeout"),
        (FakeProvider(refusal="no such collection"), "ActionUnableToRun"),
    ],
)
def test_errors_are_caught_by_name(provider, error):
    ended = run(catching([error]), {"x": 1}, provider=provider)
    assert ended.status is RunStatus.SUCCEEDED
    assert ended.document["error"]["Error"] == error
    assert ended.document["x"] == 1
    assert run(catching(["Other"]), {"x": 1}, provider=provider).status is RunStatus.FAILED
    assert run(catching(["States.ALL"]), {"x": 1}, provider=provider).status is RunStatus.SUCCEEDED


def test_catch_without_result_path_replaces_the_state():
    provider = FakeProvider([ActionStatus(status="FAILED", cause="disk full")])
    ended = run(catching(["States.ALL"], None), {"x": 1}, provider=provider)
    assert ended.document["Cause"] == "disk full"
    assert "x" not in ended.document


def test_a_path_that_leads_nowhere_is_caught_too():
    ended = run(catching(["States.Runtime"]), {})
    assert ended.document["error"]["Cause"] == "A: a.$: $.x: the state has no 'x' there"


def test_timeout_cancels_after_wait_time():
    clock, provider = FakeClock(), FakeProvider([ActionStatus(status="ACTIVE")])
    ended = run({"A": an_action()}, {"x": 1}, provider=provider, clock=clock)
    assert ended.status is RunStatus.FAILED
    assert 60 <= clock.time - 1_000_000 < 61
    assert len(provider.cancelled) == 1


def test_a_failure_may_be_a_result():
    provider = FakeProvider([ActionStatus(status="FAILED", details={"why": "x"})])
    ended = run({"A": an_action(ExceptionOnActionFailure=False)}, {"x": 1}, provider=provider)
    assert ended.status is RunStatus.SUCCEEDED
    assert ended.document["out"]["status"] == "FAILED"


def test_retry_by_catch_counter_choice_and_wait():
    """The pattern that stands for the Retry which the language lacks."""
    states = {
        "A": an_action(Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Count", "ResultPath": "$.error"}]),
        "Count": {
            "Type": "ExpressionEval",
            "Parameters": {"n.=": "getattr('tries.n', 0) + 1"},
            "ResultPath": "$.tries",
            "Next": "Again",
        },
        "Again": {
            "Type": "Choice",
            "Choices": [{"Variable": "$.tries.n", "NumericLessThan": 3, "Next": "Pause"}],
            "Default": "Give up",
        },
        "Pause": {"Type": "Wait", "Seconds": 10, "Next": "A"},
        "Give up": {"Type": "Fail", "Error": "E", "CausePath": "$.error.Cause"},
    }
    bad = ActionStatus(status="FAILED", cause="busy")
    provider = FakeProvider([bad, bad, ActionStatus(status="SUCCEEDED")])
    ended = run(states, {"x": 1}, provider=provider)
    assert (ended.status, ended.document["tries"]["n"], len(provider.started)) == (RunStatus.SUCCEEDED, 2, 3)
    ended = run(states, {"x": 1}, provider=FakeProvider([bad]))
    assert (ended.status, ended.cause) == (RunStatus.FAILED, "busy")


def test_logs_have_the_codes_of_the_service():
    journal = FakeJournal()
    states = {"P": {"Type": "Pass", "Parameters": {}, "ResultPath": "$.p", "Next": "A"}, "A": an_action()}
    run(states, {"x": 1}, journal=journal)
    codes = [entry.code for entry in journal.entries]
    assert codes == ["FlowStarted", "PassCompleted", "ActionStarted", "ActionCompleted", "FlowSucceeded"]


def test_private_values_stay_out_of_the_log():
    journal = FakeJournal()
    state = an_action(Parameters={"password.$": "$._private_pw", "__Private_Parameters": ["password"]})
    provider = FakeProvider()
    run({"A": state}, {"_private_pw": "hunter2"}, journal=journal, provider=provider)
    assert provider.started[0][1] == {"password": "hunter2"}
    assert "hunter2" not in str(journal.entries)


def test_stop_cancels_the_action_under_way():
    provider, journal = FakeProvider([ActionStatus(status="ACTIVE")]), FakeJournal(stop_after=1)
    ended = run({"A": an_action()}, {"x": 1}, provider=provider, journal=journal)
    assert ended.status is RunStatus.CANCELLED
    assert len(provider.cancelled) == 1


THREE = {
    "P": {"Type": "Pass", "Parameters": {"v": 1}, "ResultPath": "$.p", "Next": "A"},
    "A": an_action(Next="W"),
    "W": {"Type": "Wait", "Seconds": 100, "Next": "Q"},
    "Q": {"Type": "ExpressionEval", "Parameters": {"v.=": "p.v + 1"}, "ResultPath": "$.q", "End": True},
}
del THREE["A"]["End"]


@pytest.mark.parametrize("transitions", range(7))
def test_a_run_goes_on_from_every_saved_transition(transitions):
    """Die right after each save; what was saved leads to the same end, with no second action id."""
    whole = run(THREE, {"x": 1})
    journal, provider, clock = FakeJournal(die_after=transitions), FakeProvider(), FakeClock()
    definition = {"StartAt": "P", "States": THREE}
    interpreter = Interpreter(definition, {URL: provider}, clock=clock, journal=journal)
    with pytest.raises(SystemExit):
        interpreter.run(interpreter.begin({"x": 1}, context={"run_id": "r1"}))
    saved = journal.saved[-1]
    again = Interpreter(definition, {URL: provider}, clock=clock, journal=FakeJournal())
    ended = again.run(saved)

    def comparable(execution):
        document = {k: v for k, v in execution.document.items() if k != "out"}
        return replace(execution, document=document)

    assert comparable(ended) == comparable(whole)
    assert len(provider.started) == 1


def test_an_unknown_state_type_fails_readably():
    ended = run({"M": {"Type": "Map", "End": True}}, {})
    assert ended.status is RunStatus.FAILED
    assert "Map" in str(ended.cause)
