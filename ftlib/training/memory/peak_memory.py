"""What this process holds of the machine's memory, and the most that it has held since it was last asked to forget."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")


def now(device: torch.device) -> int:
    """Return the bytes that this process holds: of a GPU its tensors, else what is resident."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # what earlier work has freed is not held
    return _status("VmRSS") or peak(device)


def forget_peak(device: torch.device) -> None:
    """Let `peak` count from now on, where the system can forget."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak(device: torch.device) -> int:
    """Return the most bytes that this process has held."""
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device)
    scale = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def of_machine() -> int:
    """Return the bytes of memory that this machine has, or that its control group may take of it."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        file = Path(path)
        if file.is_file() and (limit := file.read_text().strip()).isdigit():
            limits.append(int(limit))
    return min(limits)


def _status(name: str) -> int | None:
    if not _STATUS.is_file():
        return None
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{name}:"), None)
