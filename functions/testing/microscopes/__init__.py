"""Fake microscopes: real layouts, written at a chosen pace with chosen faults, the same for the same seed.

simulate("sbemimage", folder, Script(sections=20, faults=("pause", "retake")), truth=file,
tiles_per_second=50)
"""

from __future__ import annotations

from functions.testing.microscopes.playing import KINDS, faults_of, simulate
from functions.testing.microscopes.script import FAULTS, Script, Truth

__all__ = ["FAULTS", "KINDS", "Script", "Truth", "faults_of", "simulate"]
