"""Which precision a processor computes natively: emulated bf16 is slower than fp32."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ftlib.errors import RecipeError
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase

if TYPE_CHECKING:
    import torch


def resolve_precision(phase: Phase, compute: Compute) -> Literal["fp32", "bf16"]:
    """Return the phase's precision with `auto` settled for the machines it will run on.

    GPU workers may be on other machines than this one; every data-centre GPU since 2020 has bf16, so it is taken as
    given unless this machine's own GPU lacks it.
    """
    if phase.precision != "auto":
        return phase.precision
    if compute.use_gpu:
        import torch

        return "bf16" if not torch.cuda.is_available() or _computes_bf16() else "fp32"
    return "bf16" if _cpu_has_bf16() else "fp32"


def check_bf16(device: torch.device) -> None:
    """Raise RecipeError for a GPU that does not compute bf16: torch would emulate it, slower than fp32."""
    if device.type != "cuda":
        return
    import torch

    if not _computes_bf16():
        raise RecipeError(
            f"precision bf16, but {torch.cuda.get_device_name()} does not compute it; set the phase's precision to "
            "fp32 or auto, or use a card of 2020 or later (A100, L4, H100)"
        )


def _computes_bf16() -> bool:
    import torch

    return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_has_bf16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set[str]()
    return not flags.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
