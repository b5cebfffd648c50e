"""The systemd unit that keeps a watcher running: restarted when it ends, stopped gently, able to do
little."""

from __future__ import annotations

import re
import sys
from pathlib import Path

_UNIT = """\
[Unit]
Description=Petavoxel: start flows for {folder}
After=network-online.target remote-fs.target
Wants=network-online.target
RequiresMountsFor={folder}

[Service]
Type=exec
ExecStart={command}
Environment={variable}
Restart=always
RestartSec=10
KillSignal=SIGTERM
TimeoutStopSec=120
Nice=10
UMask=0077
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ReadOnlyPaths={folder}
ReadWritePaths={writable}

[Install]
WantedBy=default.target
"""


def systemd_unit(folder: Path, *, site: str, home: Path, outbox: Path | None, more: list[str]) -> str:
    """The text of a unit that watches a folder, as `systemctl edit --force --full` takes it.

    Secrets come from the site's 0600 file or from `systemctl set-environment`, never from this text.
    """
    words = [sys.executable, "-m", "typer_cli", "watch", "run", str(folder), "--site", site, *more]
    if outbox is not None:
        words += ["--outbox", str(outbox)]
    return _UNIT.format(
        folder=_escaped(folder),
        command=" ".join(_quoted(word) for word in words),
        variable=_escaped(f"PETAVOXEL_HOME={home}"),
        writable=" ".join(_escaped(path) for path in (home, outbox) if path is not None),
    )


def _quoted(word: str) -> str:
    """A word of a command line. systemd is no shell: it knows backslashes in all quotes, and puts variables
    and specifiers in everywhere."""
    if re.fullmatch(r"[A-Za-z0-9_./=:,+@-]+", word):
        return word
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"'


def _escaped(path: Path | str) -> str:
    """A word of a list of paths or assignments, where there are no variables."""
    return _quoted(str(path)).replace("$$", "$")
