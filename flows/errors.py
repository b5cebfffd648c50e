"""The exceptions of the flow side.

FlowsError
├── SiteError        a site profile is missing, unreadable or does not fit
├── InputError       a run request cannot become a flow input
├── RunError         no such run, or it is not in a state that allows this
├── ServiceError     Globus refused, or did not answer
├── DefinitionError  a flow definition cannot be carried out
└── ActionError      an action provider will not do what it was asked (a path out of its collection, say)

Every message ends with a remedy.
"""

from __future__ import annotations


class FlowsError(Exception):
    """Base of all errors that a user can do something about; `remedy` says what."""

    code = "flows"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
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

    @property
    def unsure(self) -> bool:
        """Whether the call may have been carried out all the same."""
        return self.http_status is None or self.http_status >= 500


class DefinitionError(FlowsError):
    """A flow definition cannot be carried out as it stands."""

    code = "definition"


class ActionError(FlowsError):
    """An action provider refuses a request."""

    code = "action"
