"""What a measurement ran on; without it a number means nothing."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "transformers", "accelerate", "peft", "ray", "prefect", "numpy")


def describe_machine() -> dict[str, object]:
    """Return processor, cores, load and versions."""
    return {
        "cpu": _cpu_model(),
        "gpu": _gpu_model(),
        "cores": cores(),
        "load_average": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: _version(name) for name in LIBRARIES},
    }


def _gpu_model() -> str | None:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def _version(library: str) -> str | None:
    """Return an installed library's version: a machine lent for its GPU need not have every one."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None


def cores() -> int:
    """Return the cores this process may use, which in a container is fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
