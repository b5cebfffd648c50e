"""Imported by every Python process of a disturbed site before anything else: it lies on its PYTHONPATH.

CHAOS_CLOCK      a file of one float64: seconds to add to `time.time`, changed while processes run
CHAOS_SEGMENTED  a file that gets a line, subvolume and process, whenever one was segmented to its end
CHAOS_POISON     a subvolume that kills whoever segments it (SIGKILL, as the kernel does when memory is out)
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


class Seam(importlib.abc.MetaPathFinder):
    """Puts what is to be known, or done, before and behind `functions.segment.compute`, when that is
    imported."""

    def __init__(self, poison, log):
        self.poison, self.log = poison, log

    def find_spec(self, name, path, target=None):
        if name != "functions.segment":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            compute = module.compute

            def seen(run, unit, **more):
                if unit == self.poison:
                    os.kill(os.getpid(), signal.SIGKILL)
                report = compute(run, unit, **more)
                with open(self.log, "a") as handle:
                    handle.write(f"{unit} {os.getpid()}\n")
                return report

            module.compute = seen

        spec.loader.exec_module = exec_module
        return spec


if "CHAOS_CLOCK" in os.environ:
    jump_with(os.environ["CHAOS_CLOCK"])
if "CHAOS_SEGMENTED" in os.environ:
    sys.meta_path.insert(0, Seam(os.environ.get("CHAOS_POISON"), os.environ["CHAOS_SEGMENTED"]))
