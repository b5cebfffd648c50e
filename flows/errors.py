"""The exceptions of the flow side.

FlowsError
├── SiteError        a site profile is missing, unreadable or does not fit
├── InputError       a run request cannot become a flow input
├── RunError         no such run, or it is not in a state that allows this
├── DefinitionError  a flow definition cannot be carried out
├── AuthError        a login, a secret or a consent is missing, or a secret is not safe
├── ServiceError     a Globus service refused, or did not answer
├── DeployError      the flow cannot be deployed as things stand
├── RemoteError      a task failed on its worker; the message is the worker's
└── ActionError      an action provider will not do what it was asked (a path out of its collection, say)

Every message ends with a remedy.
"""

from __future__ import annotations


class FlowsError(Exception):
    """Base of all errors that a user can do something about; `remedy` says what."""

    code = "flows"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy


class SiteError(FlowsError):
    """A site profile is missing, unreadable or does not fit."""

    code = "site"


class InputError(FlowsError):
    """A run request cannot become a flow input."""

    code = "input"


class RunError(FlowsError):
    """No such run, or it is not in a state that allows this."""

    code = "run"


class ServiceError(FlowsError):
    """Globus refused a call, or did not answer; `http_status` is None without an answer."""

    code = "service"

    def __init__(self, message: str, *, remedy: str = "", http_status: int | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.http_status = http_status


class DefinitionError(FlowsError):
    """A flow definition cannot be carried out as it stands."""

    code = "definition"


class AuthError(FlowsError):
    """A login, a secret or a consent is missing, or a secret is not kept safely."""

    code = "auth"


class DeployError(FlowsError):
    """The flow cannot be deployed as things stand."""

    code = "deploy"


class RemoteError(FlowsError):
    """A task failed on its worker; the message is the worker's, and its remedy."""

    code = "task"


class ActionError(FlowsError):
    """An action provider refuses a request."""

    code = "action"
