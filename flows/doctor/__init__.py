"""The doctor of a site: small checks over the SDK's clients, each with a remedy, none stopping the others.

token ─┬─► instrument, scratch, publication ── a marker folder on each that is written to ──┐
       ├─► functions, endpoint ─► worker ─► versions, accelerators, paths, space ─► markers removed
       └─► scopes, flow, search
"""

from flows.doctor.examine import examine
from flows.doctor.visit import Finding, Visit

__all__ = ["Finding", "Visit", "examine"]
