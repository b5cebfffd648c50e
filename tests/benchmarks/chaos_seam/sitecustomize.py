"""Imported by every Python process of a disturbed site before anything else: it lies on its PYTHONPATH.

CHAOS_CLOCK    a file of one float64: seconds to add to `time.time`, changed while processes run
CHAOS_POISON   a subvolume that kills whoever segments it (SIGKILL, as the kernel does when memory is out)
"""

import importlib.abc
import importlib.util
import mmap
import os
import signal
import struct
import sys
import time


def jump_with(path):
    """Have `time.time` add what the file says at the moment."""
    with open(path, "r+b") as handle:
        shared = mmap.mmap(handle.fileno(), 8)
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + struct.unpack("d", shared[:8])[0]
    time.time_ns = lambda: real_ns() + int(struct.unpack("d", shared[:8])[0] * 1e9)


class Poison(importlib.abc.MetaPathFinder):
    """Puts a deadly subvolume before `functions.segment.compute`, when that is imported."""

    def __init__(self, unit):
        self.unit = unit

    def find_spec(self, name, path, target=None):
        if name != "functions.segment":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            compute = module.compute

            def poisoned(run, unit, **more):
                if unit == self.unit:
                    os.kill(os.getpid(), signal.SIGKILL)
                return compute(run, unit, **more)

            module.compute = poisoned

        spec.loader.exec_module = exec_module
        return spec


if "CHAOS_CLOCK" in os.environ:
    jump_with(os.environ["CHAOS_CLOCK"])
if "CHAOS_POISON" in os.environ:
    sys.meta_path.insert(0, Poison(os.environ["CHAOS_POISON"]))
