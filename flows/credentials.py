"""The microscope's client id and secret, from the environment or a file that is its owner's alone.

The file has the lines of a systemd EnvironmentFile, so that one file serves both:

    PETAVOXEL_CLIENT_ID=...
    PETAVOXEL_CLIENT_SECRET=...
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.errors import AuthError
from flows.people import UUID
from flows.site import Site

ID_VARIABLE = "PETAVOXEL_CLIENT_ID"
SECRET_VARIABLE = "PETAVOXEL_CLIENT_SECRET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A confidential client. The secret is in no repr, and no error of this module quotes it."""

    client_id: str
    client_secret: str = field(repr=False)


def secret_file(site: Site, home: Path) -> Path:
    """Where the site's secret lies unless it comes by the environment."""
    named = site.auth.secret_file if site.auth else None
    return Path(named).expanduser() if named else home / "secrets" / f"{site.name}.env"


def from_environment(environment: Mapping[str, str] = os.environ) -> Credentials | None:
    """The credentials of both variables, or None when neither is set.

    Raises:
        AuthError: one of them is missing, or the id is no UUID.
    """
    if not environment.get(ID_VARIABLE) and not environment.get(SECRET_VARIABLE):
        return None
    return _credentials(environment, "the environment")


def from_file(path: Path) -> Credentials:
    """The credentials of a file.

    Raises:
        AuthError: no such file, one that others may read or replace, or one without both lines.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise AuthError(
            f"{path}: no file with the microscope's client id and secret",
            remedy=f"write {ID_VARIABLE}=... and {SECRET_VARIABLE}=... into it (mode 0600), or set both",
        ) from None
    except OSError as error:
        raise AuthError(
            f"{path}: {error.strerror}", remedy="it must be a plain file, no link, that you may read"
        ) from None
    with open(descriptor, encoding="utf-8") as handle:
        if reason := refusal(os.fstat(descriptor), folders_of(path), user=os.geteuid()):
            raise AuthError(
                f"{path}: {reason}",
                remedy=f"chmod 600 {path}; chmod 700 {path.parent}; and treat the secret as known to others",
            )
        lines = dict(line.strip().split("=", 1) for line in handle if re.match(r"\s*\w+=", line))
    return _credentials({key: value.strip("'\"") for key, value in lines.items()}, str(path))


def folders_of(path: Path) -> list[os.stat_result]:
    """The folder of a file, its folder, and so on up to the root."""
    return [parent.stat() for parent in path.resolve().parents]


def refusal(file: os.stat_result, folders: list[os.stat_result], *, user: int) -> str:
    """Why a secret in such a file, in such folders, is not safe; empty if it is.

    The sticky bit keeps others from replacing what is not theirs, so it excuses folders further up (/tmp) but
    not the file's own, where they could have put it.
    """
    if not stat.S_ISREG(file.st_mode):
        return "not a plain file"
    if file.st_uid != user:
        return "belongs to another user"
    if file.st_mode & 0o077:
        return f"mode {stat.S_IMODE(file.st_mode):04o}: others may read or change it"
    if folders[0].st_uid not in (user, 0) or folders[0].st_mode & stat.S_IWOTH:
        return "others may write to its folder"
    if any(f.st_mode & stat.S_IWOTH and not f.st_mode & stat.S_ISVTX for f in folders[1:]):
        return "others may replace a folder that it lies in"
    return ""


def _credentials(values: Mapping[str, str], source: str) -> Credentials:
    client_id, secret = values.get(ID_VARIABLE, ""), values.get(SECRET_VARIABLE, "")
    if not re.fullmatch(UUID, client_id):
        raise AuthError(f"{source}: {ID_VARIABLE}: not a UUID", remedy="copy the client's UUID")
    if not secret:
        raise AuthError(f"{source}: {SECRET_VARIABLE}: missing", remedy="make a secret for the client")
    return Credentials(client_id=client_id, client_secret=secret)
