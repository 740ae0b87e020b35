"""The host's memory that is free for more than the training itself."""

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def spare_memory() -> float:
    """Return how many bytes of memory may be taken while a training goes on; infinity where nobody says.

    What this process gave back since its peak is not spare: the next step takes it again.
    """
    free = min(_of_the_machine(), _of_the_control_group())
    return free - _below_its_peak() if math.isfinite(free) else free


def _of_the_machine() -> float:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), math.inf)


def _of_the_control_group() -> float:
    try:
        limit, taken = (int((_CGROUP / f"memory.{what}").read_text()) for what in ("max", "current"))
        facts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # there is none, or it says "max"
        return math.inf
    return float(limit - taken + int(facts.get("inactive_file", 0)))


def _below_its_peak() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return float(max(0, peak - pages * os.sysconf("SC_PAGE_SIZE")))
