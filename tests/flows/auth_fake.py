"""Globus Auth behind `responses`: tokens for what is asked, signed identity tokens, and what was asked."""

from __future__ import annotations

import base64
import json
import re
import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qs

import jwt
import responses
from cryptography.hazmat.primitives.asymmetric import rsa
from requests import PreparedRequest

from tests.flows.globus_fake import Answer, answer
from tests.flows.sites import some_id

AUTH = "https://auth.globus.org"
PERSON = some_id("person")
_SERVERS = {
    "eec9b274-0c81-4334-bdc2-54e90e689b9a": "flows.globus.org",
    "facd7ccc-c5f4-42aa-916b-a0e270e2c2a9": "funcx_service",
}


def server_of(scope: str) -> str:
    """The resource server of a scope, as Globus Auth names it."""
    if scope in ("openid", "profile", "email"):
        return "auth.globus.org"
    found = re.match(r"urn:globus:auth:scope:([^:]+):|https://auth.globus.org/scopes/([^/]+)/", scope)
    assert found, scope
    name = found[1] or found[2]
    return _SERVERS.get(name, name)


@dataclass
class FakeAuth:
    """Answers of the token endpoint; `asked` are the scopes of each request, `bodies` their forms."""

    asked: list[list[str]] = field(default_factory=list)
    bodies: list[dict[str, str]] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    """Scopes of a login under way: its code request does not repeat them."""
    client_id: str = ""
    mock: Any = None
    """Where it is installed, for further routes."""

    @cached_property
    def key(self) -> rsa.RSAPrivateKey:
        """Signs identity tokens."""
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)

    def install(self, mock: responses.RequestsMock) -> None:
        """Answer the token endpoint, and what a client needs to trust identity tokens."""
        self.mock = mock
        mock.add_callback("POST", f"{AUTH}/v2/oauth2/token", self._token)
        config = {
            "issuer": AUTH,
            "jwks_uri": f"{AUTH}/jwk.json",
            "id_token_signing_alg_values_supported": ["RS512"],
        }
        mock.add("GET", f"{AUTH}/.well-known/openid-configuration", json=config)
        mock.add("GET", f"{AUTH}/jwk.json", json={"keys": [self._public()]})
        mock.add("GET", re.compile(rf"{AUTH}/v2/api/identities/.*/consents"), json={"consents": []})

    def _token(self, request: PreparedRequest) -> Answer:
        form = {key: values[0] for key, values in parse_qs(str(request.body)).items()}
        self.bodies.append(form)
        scopes = [s.split("[")[0].lstrip("*") for s in _top_level(form.get("scope", ""))] or self.pending
        self.asked.append(scopes)
        by_server: dict[str, list[str]] = {}
        for scope in scopes:
            by_server.setdefault(server_of(scope), []).append(scope)
        tokens = [self._one(server, found, form) for server, found in by_server.items()]
        return answer({**tokens[0], "other_tokens": tokens[1:]})

    def _one(self, server: str, scopes: list[str], form: dict[str, str]) -> dict[str, Any]:
        token = {
            "access_token": f"ACCESS-TOKEN-{server}",
            "scope": " ".join(scopes),
            "expires_in": 172800,
            "token_type": "Bearer",
            "resource_server": server,
        }
        if form["grant_type"] == "authorization_code":
            token["refresh_token"] = f"REFRESH-TOKEN-{server}"
        if server == "auth.globus.org" and form["grant_type"] == "authorization_code":
            now = int(time.time())
            claims = {"iss": AUTH, "aud": self.client_id, "sub": PERSON, "exp": now + 600, "iat": now}
            token["id_token"] = jwt.encode(claims, self.key, algorithm="RS512")
        return token

    def _public(self) -> dict[str, str]:
        numbers = self.key.public_key().public_numbers()

        def packed(number: int) -> str:
            raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
            return base64.urlsafe_b64encode(raw).decode().rstrip("=")

        return {"kty": "RSA", "alg": "RS512", "use": "sig", "n": packed(numbers.n), "e": packed(numbers.e)}


def _top_level(text: str) -> list[str]:
    """Scopes of a request without the dependent ones in brackets."""
    depth, found, word = 0, [], ""
    for letter in text + " ":
        depth += (letter == "[") - (letter == "]")
        if letter == " " and depth == 0:
            found += [word] if word else []
            word = ""
        elif depth == 0 and letter != "]":
            word += letter
    return found


def all_text(*things: object) -> str:
    """Everything that could be shown, in one string."""
    return "\n".join(thing if isinstance(thing, str) else json.dumps(thing, default=repr) for thing in things)
