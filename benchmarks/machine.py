"""What a measurement ran on; without it a number means nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "accelerate", "ray", "prefect", "numpy")


def describe_machine() -> dict[str, object]:
    """Return processor, cores, load and versions."""
    return {
        "cpu": _cpu_model(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
    }


def cores() -> int:
    """Return the cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
