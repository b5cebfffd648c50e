"""Carry out a flow definition, one state at a time.

The interpreter knows no file, clock or service: providers, clock and journal are given to it. Each
transition is saved before the next one begins, so a run whose process dies goes on in the state it was in; an
Action that was under way is started again under the same id (the steps find their finished units marked).

PROVISIONAL, since only the service can confirm them: the text of errors, the log codes of Choice, Wait,
ExpressionEval, Fail and of a run that goes INACTIVE, and the keys of the error that Catch stores.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from flows.errors import ActionError, DefinitionError
from flows.local.actions import ActionProvider, ActionStatus, Json
from flows.local.choices import holds, timestamp
from flows.local.expressions import CONTEXT, EvaluationError, evaluate, hidden_keys, redact
from flows.paths import PathError, read_path, write_path
from flows.records import LogEntry, RunStatus

DEFAULT_WAIT_SECONDS = 300
FIRST_POLL_SECONDS, LAST_POLL_SECONDS = 0.02, 0.5


class Clock(Protocol):
    """Time, so that tests need not wait."""

    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""


class StopRequestedError(Exception):
    """The run is to be cancelled."""


class HoldRequestedError(Exception):
    """The run is to go INACTIVE where it is; the action under way is asked for again when it is resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """All there is to a run between two transitions."""

    state_name: str
    document: Json
    context: Json
    status: RunStatus = RunStatus.ACTIVE
    action_id: str | None = None
    """Id of the action this state has asked for."""
    wake_at: float | None = None
    """When the Wait state this is in ends."""
    cause: str | None = None


class Journal(Protocol):
    """Where transitions are kept."""

    def save(self, execution: Execution, entries: list[LogEntry]) -> None:
        """Keep the execution and log lines, whole or not at all."""

    def progress(self, execution: Execution, status: ActionStatus) -> None:
        """How an action stands; asked often, so it may be as it was."""

    def stop_requested(self) -> bool:
        """Whether somebody wants this run cancelled."""
        ...

    def hold_requested(self) -> bool:
        """Whether this run lacks a consent or a session, and is to wait for it."""
        ...


class StateFailedError(Exception):
    """An error that a Catch may handle."""

    def __init__(self, error: str, cause: str) -> None:
        super().__init__(f"{error}: {cause}")
        self.error = error
        self.cause = cause


@dataclass(slots=True)
class Interpreter:
    """Runs one definition."""

    definition: Json
    providers: Mapping[str, ActionProvider]
    clock: Clock
    journal: Journal
    _entries: list[LogEntry] = field(default_factory=list)

    def begin(self, document: Json, *, context: Json) -> Execution:
        """A new execution at the definition's first state, saved."""
        execution = Execution(state_name=self.definition["StartAt"], document=document, context=dict(context))
        self._log("FlowStarted", "", "The flow started", {"input": redact(document)})
        self._save(execution)
        return execution

    def run(self, execution: Execution) -> Execution:
        """Go on until the run ends. An execution that was saved before goes on where it was."""
        while execution.status is RunStatus.ACTIVE:
            try:
                execution = self.step(execution)
            except HoldRequestedError:
                self._log("FlowInactive", execution.state_name, "The flow waits for a person", {})
                execution = replace(execution, status=RunStatus.INACTIVE)
            except StopRequestedError:
                self._log("FlowCanceled", execution.state_name, "The flow was cancelled", {})
                execution = replace(execution, status=RunStatus.CANCELLED, cause="cancelled by the user")
            except StateFailedError as error:
                execution = self._failed(execution, error.error, error.cause)
            except DefinitionError as error:
                execution = self._failed(execution, "States.Runtime", str(error))
            self._save(execution)
        return execution

    def step(self, execution: Execution) -> Execution:
        """Carry out one state and return what comes next (unsaved)."""
        self._heed_requests()
        name = execution.state_name
        state = self.definition["States"].get(name)
        if state is None:
            raise DefinitionError(f"{name}: no such state", remedy="lint the definition")
        carry_out = self._kinds().get(state["Type"])
        if carry_out is None:
            raise DefinitionError(f"{name}: Type {state['Type']!r} is not known here", remedy="lint it")
        try:
            return carry_out(execution, state)
        except (PathError, EvaluationError) as error:
            raise StateFailedError("States.Runtime", f"{name}: {error}") from None

    def _heed_requests(self) -> None:
        if self.journal.stop_requested():
            raise StopRequestedError
        if self.journal.hold_requested():
            raise HoldRequestedError

    def _kinds(self) -> dict[str, Callable[[Execution, Json], Execution]]:
        return {
            "Action": self._action,
            "Choice": self._choice,
            "Pass": self._calculated,
            "ExpressionEval": self._calculated,
            "Wait": self._wait,
            "Fail": self._fail,
        }

    # -- states ---------------------------------------------------------------------------------------------
    def _action(self, execution: Execution, state: Json) -> Execution:
        name = execution.state_name
        try:
            body = self._body(execution, state)
            execution = self._announced(execution, state, body)
            status = self._carried_out(execution, state, body)
        except (StateFailedError, PathError, EvaluationError) as error:
            failure = (
                error
                if isinstance(error, StateFailedError)
                else StateFailedError("States.Runtime", f"{name}: {error}")
            )
            return self._caught(execution, state, failure)
        result = {
            "action_id": execution.action_id,
            "status": status.status,
            "display_status": status.status,
            "state_name": name,
            "details": status.details,
            "completion_time": iso(self.clock.now()),
        }
        code = "ActionCompleted" if status.status == "SUCCEEDED" else "ActionFailed"
        self._log(code, name, f"{name}: {status.status}", {"output": _shortened(redact(result))})
        return self._moved(replace(execution, action_id=None), state, result)

    def _body(self, execution: Execution, state: Json) -> Json:
        if "InputPath" in state:
            return dict(read_path(_names(execution), state["InputPath"]))
        return dict(
            evaluate(state.get("Parameters", {}), state=execution.document, context=execution.context)
        )

    def _announced(self, execution: Execution, state: Json, body: Json) -> Execution:
        """Save the action's id before it is started, so that a resumed run starts no second one."""
        if execution.action_id is not None:
            return execution
        execution = replace(execution, action_id=str(uuid.uuid4()))
        hidden = hidden_keys(state.get("Parameters", {}))
        details = {"input": _shortened(redact(body, hidden)), "url": state["ActionUrl"]}
        self._log("ActionStarted", execution.state_name, f"{execution.state_name}: started", details)
        self._save(execution)
        return execution

    def _carried_out(self, execution: Execution, state: Json, body: Json) -> ActionStatus:
        """Start, then poll until it ends or WaitTime is over."""
        name, url, action_id = execution.state_name, state["ActionUrl"], execution.action_id
        assert action_id is not None
        provider = self.providers.get(url)
        if provider is None:
            raise StateFailedError("ActionUnableToRun", f"{name}: this site has no provider for {url}")
        try:
            provider.start(action_id, body)
        except ActionError as error:
            raise StateFailedError("ActionUnableToRun", str(error)) from None
        deadline = self.clock.now() + state.get("WaitTime", DEFAULT_WAIT_SECONDS)
        pause = FIRST_POLL_SECONDS
        while True:
            status = provider.status(action_id)
            self.journal.progress(execution, status)
            if status.status != "ACTIVE":
                break
            if self.clock.now() >= deadline:
                provider.cancel(action_id)
                raise StateFailedError("ActionTimeout", f"{name}: not done after {state.get('WaitTime')} s")
            if self.journal.stop_requested() or self.journal.hold_requested():
                provider.cancel(action_id)
                self._heed_requests()
            self.clock.sleep(min(pause, max(deadline - self.clock.now(), 0.001)))
            pause = min(pause * 1.5, LAST_POLL_SECONDS)
        if status.status == "FAILED" and state.get("ExceptionOnActionFailure", True):
            raise StateFailedError("ActionFailedException", status.cause or f"{name}: failed")
        return status

    def _choice(self, execution: Execution, state: Json) -> Execution:
        names = _names(execution)
        for rule in state["Choices"]:
            if holds(rule, names):
                return self._chosen(execution, rule["Next"])
        if "Default" not in state:
            raise StateFailedError("States.NoChoiceMatched", f"{execution.state_name}: no rule holds")
        return self._chosen(execution, state["Default"])

    def _chosen(self, execution: Execution, following: str) -> Execution:
        name = execution.state_name
        self._log("ChoiceCompleted", name, f"{name}: go on with {following}", {"next": following})
        return replace(execution, state_name=following)

    def _calculated(self, execution: Execution, state: Json) -> Execution:
        """Pass and ExpressionEval: parameters become the result. A Pass without any hands its state on."""
        name, kind = execution.state_name, state["Type"]
        if "Parameters" in state:
            value = evaluate(state["Parameters"], state=execution.document, context=execution.context)
        else:
            value = read_path(execution.document, state.get("InputPath", "$"))
        shown = redact(value, hidden_keys(state.get("Parameters", {})))
        self._log(f"{kind}Completed", name, f"{name}: done", {"output": _shortened(shown)})
        return self._moved(execution, state, value)

    def _wait(self, execution: Execution, state: Json) -> Execution:
        if execution.wake_at is None:
            execution = replace(execution, wake_at=self._wake_time(execution, state))
            self._save(execution)
        assert execution.wake_at is not None
        while (left := execution.wake_at - self.clock.now()) > 0:
            self._heed_requests()
            self.clock.sleep(min(left, LAST_POLL_SECONDS))
        name = execution.state_name
        self._log("WaitCompleted", name, f"{name}: done", {})
        return self._moved(replace(execution, wake_at=None), state, None, keep=True)

    def _wake_time(self, execution: Execution, state: Json) -> float:
        names = _names(execution)
        if "Seconds" in state or "SecondsPath" in state:
            seconds = state["Seconds"] if "Seconds" in state else read_path(names, state["SecondsPath"])
            return self.clock.now() + float(seconds)
        text = state["Timestamp"] if "Timestamp" in state else read_path(names, state["TimestampPath"])
        moment = timestamp(text)
        if moment is None:
            raise StateFailedError("States.Runtime", f"{execution.state_name}: {text!r} is not a timestamp")
        return moment.timestamp()

    def _fail(self, execution: Execution, state: Json) -> Execution:
        names = _names(execution)
        error = read_path(names, state["ErrorPath"]) if "ErrorPath" in state else state.get("Error", "Failed")
        cause = read_path(names, state["CausePath"]) if "CausePath" in state else state.get("Cause", "")
        return self._failed(execution, str(error), str(cause))

    # -- transitions ----------------------------------------------------------------------------------------
    def _moved(self, execution: Execution, state: Json, result: Any, *, keep: bool = False) -> Execution:
        """Store the result (an omitted ResultPath replaces the whole state) and go to what is next."""
        document = (
            execution.document
            if keep
            else write_path(execution.document, state.get("ResultPath", "$"), result)
        )
        execution = replace(execution, document=document)
        if state.get("End"):
            self._log("FlowSucceeded", execution.state_name, "The flow succeeded", {})
            return replace(execution, status=RunStatus.SUCCEEDED)
        return replace(execution, state_name=state["Next"])

    def _caught(self, execution: Execution, state: Json, failure: StateFailedError) -> Execution:
        """Follow the first Catch that takes this error; without one the run fails."""
        name = execution.state_name
        self._log("ActionFailed", name, f"{name}: {failure.error}: {failure.cause}", {"error": failure.error})
        execution = replace(execution, action_id=None)
        for catch in state.get("Catch", []):
            if failure.error in catch["ErrorEquals"] or "States.ALL" in catch["ErrorEquals"]:
                error = {"Error": failure.error, "Cause": failure.cause}
                document = write_path(execution.document, catch.get("ResultPath", "$"), error)
                return replace(execution, document=document, state_name=catch["Next"])
        return self._failed(execution, failure.error, failure.cause)

    def _failed(self, execution: Execution, error: str, cause: str) -> Execution:
        self._log("FlowFailed", execution.state_name, cause or error, {"error": error, "cause": cause})
        return replace(execution, status=RunStatus.FAILED, cause=cause or error)

    def _log(self, code: str, state_name: str, description: str, details: Json) -> None:
        self._entries.append(
            LogEntry(
                time=iso(self.clock.now()),
                code=code,
                state_name=state_name,
                description=description,
                details=details,
            )
        )

    def _save(self, execution: Execution) -> None:
        self.journal.save(execution, self._entries)
        self._entries = []


def _names(execution: Execution) -> Json:
    return {**execution.document, CONTEXT: execution.context}


def _shortened(document: Any, *, items: int = 3) -> Any:
    """For a log: long lists cut, with a word on how much was left out."""
    if isinstance(document, list):
        shown = [_shortened(item) for item in document[:items]]
        return [*shown, f"... {len(document) - items} more"] if len(document) > items else shown
    if isinstance(document, dict):
        return {key: _shortened(value) for key, value in document.items()}
    return document


def iso(seconds: float) -> str:
    """Seconds since the epoch as ISO 8601 text in UTC."""
    return datetime.fromtimestamp(seconds, tz=UTC).isoformat(timespec="milliseconds")
