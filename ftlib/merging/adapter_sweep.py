"""The line from theta0 to a LoRA fine-tune, walked by scaling the adapter: no weights are read or merged per alpha.

W0 + alpha (s B A) is what mixing the merged weights gives, so it is the same model to rounding; a switch of alpha
takes milliseconds at any model size. It holds for LoRA and rsLoRA that moved nothing else. DoRA normalises after
adding, and a trained head, bias or token embedding is not scaled by anything: those are mixed as merged weights.
"""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from ftlib.config import BatchKind
from ftlib.kinds.loading import load
from ftlib.merging.adapters import WEIGHTS, unscaled
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import adapter_in
from ftlib.models.folder import tensor_spans


def walks_by_scaling(candidate: Candidate) -> bool:
    """Say whether scaling the end's adapter gives the candidate, to fp32 rounding.

    The ends are not walked to: they are byte copies. Neither are weights that are stored in less than fp32: what is
    measured must be what is served, after rounding.
    """
    merge, adapter = candidate.merge, candidate.end.adapter
    if merge is None or merge.scaling() is None or merge.whole_copy() is not None:
        return False
    if adapter is None or not (adapter / WEIGHTS).is_file():
        return False
    spans = tensor_spans(candidate.start.weights_folder).values()
    return not unscaled(adapter) and all(span.dtype in ("F32", "I64", "BOOL") for span in spans)


class AdapterSweep:
    """theta0 in memory with the adapter beside it."""

    def __init__(self, candidate: Candidate, kind: BatchKind) -> None:
        from peft import PeftModel
        from peft.tuners.lora import LoraLayer

        base = load(candidate.start, kind)
        model: Any = PeftModel.from_pretrained(cast(Any, base), adapter_in(candidate.end.path))
        self.model: nn.Module = model.eval()
        self._scalings = [
            (cast("dict[str, float]", module.scaling), dict(cast("dict[str, float]", module.scaling)))
            for module in self.model.modules()
            if isinstance(module, LoraLayer)
        ]

    def at(self, alpha: float) -> nn.Module:
        """Return the model at alpha; always scaled from the adapter's own scaling, never from the alpha before."""
        for scaling, own in self._scalings:
            for name, value in own.items():
                scaling[name] = alpha * value
        return self.model
