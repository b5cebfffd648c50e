"""The doctor of a site: small checks over the SDK's clients, each with a remedy, none stopping the others.

token ─► instrument, scratch, publication ─► marker ─┐
     └─► functions ─► endpoint ─► worker ◄───────────┘ ─► paths, versions, accelerators, space
     └─► flow, search                                  ─► marker removed
"""

from flows.doctor.examine import examine
from flows.doctor.visit import Finding, Visit

__all__ = ["Finding", "Visit", "examine"]
