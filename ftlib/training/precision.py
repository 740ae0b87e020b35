"""Which precision a processor computes natively: emulated bf16 is slower than fp32."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.training.resources import gpu_has_bf16


def resolve_precision(phase: Phase, compute: Compute) -> Literal["fp32", "bf16"]:
    """Return the phase's precision with `auto` settled for the machines it will run on.

    GPU workers may be on other machines than this one; every data-centre GPU since 2020 has bf16, so it is taken as
    given unless this machine's own GPU lacks it.
    """
    if phase.precision != "auto":
        return phase.precision
    if compute.use_gpu:
        import torch

        return "bf16" if not torch.cuda.is_available() or gpu_has_bf16() else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set[str]()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
