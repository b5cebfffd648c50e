"""When a section is complete: pure rules over what is known of it. The rule that fired is part of the answer.

In this order: an explicit marker; the expected set; a `.done` file; another section begun later; quiet. Two
things stand above all rules: a file that is not whole, or was not there, never counts; and while an expected
set is known and not met, quiet alone means nothing (a microscope that pauses is quiet too). The expected set
itself must have settled, since grids are switched on during runs and montages grow row by row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

MARKER, EXPECTED, DONE_FILE, NEXT, QUIET = "marker", "expected_set", "done_file", "next_section", "quiescence"
END = "acquisition_end"
Faults = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What is known of a section, but for its files."""

    tiles: int
    marker: bool = False
    expected: int | None = None
    """How many tiles it should have; None: nobody says."""
    missing: tuple[str, ...] = ()
    """Names of expected tiles that are not listed, where names are known."""
    done_file: bool = False
    followed: bool = False
    """A tile of another section was listed after the last one of this."""
    quiet_seconds: float = 0.0
    """Since its last tile was seen, by the watcher's clock."""
    closing: bool = False
    """The acquisition is over: nothing more will come."""

    @property
    def lacking(self) -> int:
        """Expected tiles that are not listed."""
        if self.expected is None:
            return 0
        return len(self.missing) or max(0, self.expected - self.tiles)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`rule` is the one that fired; else empty, and `waits_for` tells people what is missing."""

    rule: str = ""
    waits_for: str = ""
    left_out: Faults = ()
    """Files that will never be whole, when the acquisition is over."""

    @property
    def complete(self) -> bool:
        """Whether the section may be started."""
        return bool(self.rule)


def judge(evidence: Evidence, *, quiet_seconds: float, faults: Callable[[], Faults]) -> Verdict:
    """Whether a section is complete. `faults` names its files that are not whole; it is asked only when a
    rule has fired, since looking at files costs."""
    rule = _rule(evidence, quiet_seconds)
    if not rule:
        return Verdict(waits_for=_waits_for(evidence, quiet_seconds))
    bad = faults()
    if not bad:
        return Verdict(rule=rule)
    settled = evidence.closing and evidence.quiet_seconds >= quiet_seconds
    if settled and len(bad) < evidence.tiles:
        return Verdict(rule=END, left_out=bad)
    more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return Verdict(waits_for=f"files to be whole: {bad[0]}{more}")


def _rule(evidence: Evidence, quiet_seconds: float) -> str:
    if evidence.tiles == 0:
        return ""
    settled = evidence.quiet_seconds >= quiet_seconds
    met = evidence.expected is not None and evidence.lacking == 0
    if evidence.marker:
        return MARKER
    if met and (settled or evidence.followed or evidence.closing):
        return EXPECTED
    if evidence.done_file:
        return DONE_FILE
    if evidence.followed and (settled or evidence.expected is None):
        return NEXT
    if settled and evidence.expected is None:
        return QUIET
    if evidence.closing and settled:
        return END
    return ""


def _waits_for(evidence: Evidence, quiet_seconds: float) -> str:
    rest = max(0.0, quiet_seconds - evidence.quiet_seconds)
    if evidence.tiles == 0:
        return "its first tile"
    if evidence.lacking:
        names = f" ({', '.join(evidence.missing[:3])})" if evidence.missing else ""
        return f"{evidence.lacking} of {evidence.expected} tiles{names}, a marker, or the next section"
    if evidence.expected is not None:
        return f"a marker, or {rest:.0f} s without a new tile"
    return f"a marker, the next section, or {rest:.0f} s without a new tile"
