"""Which runs of one acquisition may be at work at the same time.

They share its copy of the tiles and its work root. Stitching a section reads its own tiles and writes its own
cells; ingest keeps a manifest for each range of sections; documents have a folder for each run. So runs that
stop at stitch, over ranges that do not meet, never touch the same file. All others wait for each other. A
list of runs has no inputs: their tags tell.
"""

from __future__ import annotations

from flows.inputs import OWN_FILES
from flows.records import FLOW_STEPS, RunRecord

LAST_SHARED = FLOW_STEPS.index("stitch")


def may_share(a: RunRecord, b: RunRecord) -> bool:
    """Whether two runs of one acquisition are of disjoint sections, and of nothing else."""
    first, second = _sections(a), _sections(b)
    if first is None or second is None:
        return False
    return first[1] <= second[0] or second[1] <= first[0]


def _sections(record: RunRecord) -> tuple[int, int] | None:
    """The range of a run that moves and stitches its own sections; None for a run of anything more."""
    if FLOW_STEPS.index(record.stop_after) > LAST_SHARED or OWN_FILES not in record.tags:
        return None
    for tag in record.tags:
        if tag.startswith("sections:"):
            first, _, end = tag.removeprefix("sections:").partition("-")
            return int(first), int(end)
    return None
