"""The way from theta0 to a LoRA fine-tune, walked by scaling the adapter: no weights are read or merged per point.

W0 + alpha (s B A) is what mixing the merged weights gives, so it is the same model to rounding; a switch of alpha
takes milliseconds at any model size. It holds for LoRA and rsLoRA that moved nothing else, and for an adapter of
(IA)3, whose factors are mixed with ones. DoRA normalises after adding, and a trained head, bias or token embedding is
not scaled by anything: a dense end with those is mixed as merged weights, an adapter's own are mixed here with the
start's.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from ftlib.config import BatchKind
from ftlib.kinds.loading import load, put_over
from ftlib.merging.adapters import chunk_of, plain_name, unscaled, whole_ends
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods import Kernel
from ftlib.merging.methods.lerp import lerp
from ftlib.models.adapter import WEIGHTS
from ftlib.models.checkpoint import adapter_in
from ftlib.models.folder import tensor_spans
from ftlib.models.parameter_names import layers_in
from ftlib.models.saved_names import spans_in_memory


def walks_by_scaling(candidate: Candidate) -> bool:
    """Say whether scaling the end's adapter gives the candidate, to fp32 rounding.

    The line from dense weights to an adapter always is. Of a dense end the points are: the ends are not walked to, they
    are byte copies. Neither are weights that are stored in less than fp32, or that have BatchNorm statistics of their
    own: what is measured must be what is served, to the bit.
    """
    if candidate.end.form == "adapter":
        return candidate.merge is not None and candidate.merge.scales_adapter and candidate.start.form == "dense"
    merge, adapter = candidate.merge, candidate.end.adapter
    if merge is None or not merge.scales_adapter or merge.whole_copy() is not None or candidate.statistics:
        return False
    if adapter is None or not (adapter / WEIGHTS).is_file() or candidate.start.snapshot:  # it stands on what was before
        return False
    spans = tensor_spans(candidate.start.weights_folder).values()
    return not unscaled(adapter) and all(span.dtype in ("F32", "I64", "BOOL") for span in spans)


class AdapterSweep:
    """theta0 in memory with the adapter beside it."""

    def __init__(self, candidate: Candidate, kind: BatchKind) -> None:
        """Load both, and find what alpha changes."""
        from peft.tuners.lora import LoraLayer

        start, end = candidate.start, candidate.end
        kept = end.form == "adapter"
        self.model = load(end, kind) if kept else put_over(load(start, kind), adapter_in(end.path))[0]
        whole = whole_ends(end.folder, start.weights_folder) if kept else {}
        spans = spans_in_memory(start.weights_folder)
        layers = layers_in(spans)
        self._whole = [
            (chunk_of(name, spans, layers), parameter, *whole[plain_name(name)])
            for name, parameter in self.model.named_parameters()
            if ".original_module." not in name and plain_name(name) in whole
        ]
        self._scalings = [
            (chunk_of(f"{name}.lora_B.weight", spans, layers), scaling, dict(scaling))
            for name, module in self.model.named_modules()
            if isinstance(module, LoraLayer)
            for scaling in (cast("dict[str, float]", module.scaling),)
        ]
        layers = tuple(f"{name}." for name, module in self.model.named_modules() if isinstance(module, LoraLayer))
        moved = {id(parameter) for _, parameter, _, _ in self._whole}
        self.moved = frozenset(
            name
            for name, tensor in self.model.state_dict(keep_vars=True).items()
            if name.startswith(layers) or id(tensor) in moved
        )
        """What alpha changes, or scales the effect of: names in the model's state."""

    def at(self, merge: Kernel) -> nn.Module:
        """Return the model at a point; always scaled from the adapter's own scaling, never from the point before."""
        for chunk, scaling, own in self._scalings:
            alpha = merge.scaling(chunk)
            for name, value in own.items():
                scaling[name] = alpha * value
        with torch.no_grad():
            for chunk, parameter, start, end in self._whole:
                alpha = merge.scaling(chunk)
                lerp(start, end, alpha, mixed := torch.empty_like(end))
                parameter.copy_(start if alpha == 0.0 else mixed)
        return self.model
