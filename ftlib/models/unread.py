"""Models whose weights are still in their folder: built, wrapped and frozen as ever, and then read part by part.

A parameter that is unread takes no memory, and says where its values lie. It is on the CPU, so that whatever is made
for it draws from the CPU's generator, as beside real weights. Its values are NaN: what computes with them is told.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from math import nan, prod
from pathlib import Path
from typing import Any

import torch
from torch import nn
from typing_extensions import override

from ftlib.errors import ModelError
from ftlib.models.folder import tensor_spans
from ftlib.models.quiet import quiet
from ftlib.models.tensor_files import FLOATING, TensorSpan
from ftlib.models.tensor_parts import Elements, reading
from ftlib.models.torch_dtypes import DTYPES


class Unread(nn.Parameter):
    """A parameter whose values lie in a file. A copy of it is a tensor of its own, and is read."""

    span: TensorSpan

    @override
    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        if id(self) not in memo:
            memo[id(self)] = nn.Parameter(read_whole(self.span).to(self.dtype), requires_grad=self.requires_grad)
        return memo[id(self)]


def unread(span: TensorSpan) -> Unread:
    """Return a parameter in fp32 that stands for a tensor of a file, and trains."""
    made = Unread(_placeholder(span))
    made.span = span
    return made


def _placeholder(span: TensorSpan) -> torch.Tensor:
    return torch.full((), nan).expand(span.shape)


def read_whole(span: TensorSpan) -> torch.Tensor:
    """Return a tensor of a file as it is there."""
    made = torch.empty(span.shape, dtype=DTYPES[span.dtype])
    with reading() as source:
        source.fill(span, Elements(0, made.numel()), made.view(-1))
    return made


def build_unread(model_class: Any, folder: Path, config: Any) -> tuple[nn.Module, dict[str, Any]] | None:
    """Build the model of a folder in fp32 and eval mode, by stock transformers, without reading its parameters.

    Returns it with transformers' report; None where the model's parameters are not the file's tensors one by one: a
    family's experts that are fused in memory, tied weights that the file has twice. Names, shapes, what is missing and
    how that is initialised, buffers and ties are transformers' own: it is given tensors that take no memory.
    """
    spans = tensor_spans(folder)
    state = {name: _given(span) for name, span in spans.items()}
    places = {tensor.untyped_storage().data_ptr(): spans[name] for name, tensor in state.items()}
    with quiet():
        model, info = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
        )
    if _converts(model):
        return None
    model.name_or_path = model.config.name_or_path = str(folder)
    if model.can_generate():
        _read_generation_config(model, folder)
    _read_buffers(model, places)
    copied = _copied(model, spans)
    replace_parameters(model, lambda p: unread(span) if (span := _place(p, places) or copied.get(id(p))) else p)
    return model, info


def replace_parameters(model: nn.Module, make: Callable[[nn.Parameter], nn.Parameter]) -> None:
    """Put other parameters into a model's modules; what is tied stays tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():  # pyright: ignore[reportPrivateUsage]
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = make(parameter)
                module._parameters[name] = made[id(parameter)]  # pyright: ignore[reportPrivateUsage]


def _given(span: TensorSpan) -> torch.Tensor:
    """Return what transformers is given for a tensor: one value that stands for all, or what is no more as it is."""
    return _placeholder(span) if span.dtype in FLOATING and prod(span.shape) > 1 else read_whole(span)


def _place(tensor: torch.Tensor, places: Mapping[int, TensorSpan]) -> TensorSpan | None:
    """Return which tensor of the file a placeholder stands for; None for a tensor that is none."""
    return places.get(tensor.untyped_storage().data_ptr()) if tensor.numel() > 1 else None


def _copied(model: nn.Module, spans: Mapping[str, TensorSpan]) -> dict[int, TensorSpan]:
    """Return the tensor of the file for each parameter that is a copy of its placeholder, by the parameter's id.

    transformers pads the bias of a head that it ties to an embedding, which copies it, however much there is to pad.
    """
    named = [(p, spans[name]) for name, p in model.named_parameters() if name in spans]
    return {
        id(p): span for p, span in named if p.numel() > 1 and (*p.shape,) == (*span.shape,) and bool(p.isnan().all())
    }


def _converts(model: Any) -> bool:
    from transformers.core_model_loading import WeightConverter

    tied = model.get_expanded_tied_weights_keys(all_submodels=True)
    return any(isinstance(used, WeightConverter) for used in model._weight_conversions) or (
        tied.keys() != model.all_tied_weights_keys.keys()
    )


def _read_generation_config(model: Any, folder: Path) -> None:
    where = {"cache_dir": None, "force_download": False, "proxies": None, "token": None, "revision": None}
    model.adjust_generation_fn(
        None, False, None, str(folder), local_files_only=True, subfolder="", trust_remote_code=False, **where
    )


def _read_buffers(model: nn.Module, places: Mapping[int, TensorSpan]) -> None:
    """Read what of a file became buffers, as BatchNorm's statistics did: they are small, and never sharded."""
    for module in model.modules():
        for name, buffer in module._buffers.items():  # pyright: ignore[reportPrivateUsage]
            if buffer is not None and (span := _place(buffer, places)):
                module._buffers[name] = read_whole(span).to(buffer.dtype)  # pyright: ignore[reportPrivateUsage]


def unread_names(model: nn.Module) -> set[str]:
    """Return the names of a model's parameters that are unread, the second names of tied ones too."""
    return {name for name, p in model.named_parameters(remove_duplicate=False) if isinstance(p, Unread)}


def check_read_nothing(model: nn.Module, what: str) -> None:
    """Raise ModelError if `what` computed with weights that are unread: numbers came of it that are none."""
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, Unread) and not parameter.is_meta and not parameter.isfinite().all():
            raise ModelError(
                f"{what} computes {name} from weights, which are not read yet when it prepares the model; read them by "
                "ftlib.models.unread.values_of"
            )


@contextmanager
def values_of(module: nn.Module) -> Generator[None]:
    """Let a module's own parameters have their values while the block runs; those that were unread are so again after.

    What the block makes of such a parameter's values is gone afterwards, so take it inside.
    """
    slots = module._parameters  # pyright: ignore[reportPrivateUsage]
    unread = {name: p for name, p in slots.items() if isinstance(p, Unread)}
    for name, parameter in unread.items():
        value = read_whole(parameter.span).to(parameter.dtype)
        slots[name] = nn.Parameter(value, requires_grad=parameter.requires_grad)
    try:
        yield
    finally:
        slots.update(unread)


def read_all(model: nn.Module) -> nn.Module:
    """Read every parameter that is unread, in full, and return the model."""

    def read(parameter: nn.Parameter) -> nn.Parameter:
        if not isinstance(parameter, Unread):
            return parameter
        value = read_whole(parameter.span).to(parameter.dtype)
        return nn.Parameter(value, requires_grad=parameter.requires_grad)

    replace_parameters(model, read)
    return model


def empty_unread(model: nn.Module) -> dict[str, TensorSpan]:
    """Put the parameters that are unread onto the meta device; return where the values of each lie, by its name."""
    spans = {name: p.span for name, p in model.named_parameters() if isinstance(p, Unread)}

    def empty(parameter: nn.Parameter) -> nn.Parameter:
        if not isinstance(parameter, Unread):
            return parameter
        nothing = torch.empty(parameter.shape, dtype=parameter.dtype, device="meta")
        return nn.Parameter(nothing, requires_grad=parameter.requires_grad)

    replace_parameters(model, empty)
    return spans
