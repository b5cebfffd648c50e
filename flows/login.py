"""Logging in from a terminal: the link goes to standard error; standard output belongs to the answer."""

from __future__ import annotations

import sys

from globus_sdk.login_flows import CommandLineLoginFlowManager

from flows.errors import AuthError


class TerminalLogin(CommandLineLoginFlowManager):
    """Shows a link, takes the code that the web page gives."""

    def print_authorize_url(self, authorize_url: str) -> None:
        """Say where to log in.

        Raises:
            AuthError: nobody is there to do it.
        """
        if not sys.stdin.isatty():
            raise AuthError(
                "a login at Globus is needed, and this is no terminal",
                remedy="repeat the command in a terminal, or set the service's client id and secret",
            )
        sys.stderr.write(f"Log in to Globus here, and allow what it lists:\n\n  {authorize_url}\n\n")

    def prompt_for_code(self) -> str:
        """Read the code.

        Raises:
            AuthError: standard input ended, or an empty line came.
        """
        sys.stderr.write("Code from that page: ")
        sys.stderr.flush()
        if code := sys.stdin.readline().strip():
            return code
        raise AuthError("no code was given", remedy="repeat the command and paste the code")
