"""Who may do what with the flow and its runs, and how this machine proves who it is."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from functions.model.base import Document

UUID = r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
Uuid = Annotated[str, Field(pattern=rf"^{UUID}$")]
MAX_PRINCIPALS = 16
"""Globus Flows takes no more in one list; a Globus group counts as one."""


def _principal(urn: str) -> str:
    """One person or group; `public` and `all_authenticated_users` are refused like any other word."""
    if not re.fullmatch(rf"urn:globus:(auth:identity|groups:id):{UUID}", urn):
        raise ValueError(
            f"{urn!r} is not urn:globus:groups:id:UUID or urn:globus:auth:identity:UUID;"
            " a flow that starts jobs is opened to named people and groups only"
        )
    return urn


Principals = Annotated[
    tuple[Annotated[str, AfterValidator(_principal)], ...], Field(max_length=MAX_PRINCIPALS)
]


class People(Document):
    """Roles of the deployed flow. Whoever deployed it has them all."""

    starters: Principals = ()
    """May start runs: the microscope's client, the people who rerun."""
    monitors: Principals = ()
    """May see the flow, and inputs, outputs and logs of all its runs."""
    managers: Principals = ()
    """May also cancel runs and change their tags."""
    administrators: Principals = ()
    """May deploy, too."""


class AuthSettings(Document):
    """The clients registered at app.globus.org/settings/developers. No secret stands here."""

    client_id: Uuid
    """The native app with which people log in."""
    secret_file: str | None = None
    """File (0600, its folder its owner's) with the id and secret of the microscope's confidential client;
    by default `secrets/<site>.env` in Petavoxel's home."""
