"""A placed model and the files that it came from: each rank reads, compares and writes the part that it has.

A start is the phase's model as it is before step 0, whose parameters are `Unread` but for what its folder does not
have: an adapter's matrices, the head that it trains. So both sides of a comparison are there without a second model.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Shaped
from torch import nn
from torch.distributed.tensor import DTensor

from ftlib.kinds.loading import count_not_finite, not_finite
from ftlib.models.four_bits import four_bit_weights
from ftlib.models.tensor_files import TensorSpan
from ftlib.models.tensor_parts import PIECE_BYTES, Elements, Source, copies_of, elements_of, reading
from ftlib.models.torch_dtypes import DTYPES
from ftlib.models.unread import Unread, replace_parameters
from ftlib.training.group import Group, own_part

_BORDER = 64


def read_into(model: nn.Module, spans: Mapping[str, TensorSpan], group: Group, device: torch.device) -> nn.Module:
    """Give the parameters of a placed model that are on the meta device this rank's part of their values, on `device`.

    `spans` says where they lie, by name. Raises ModelError, on every rank, for a value that is no number.
    """
    places = {id(parameter): spans[name] for name, parameter in model.named_parameters() if name in spans}
    replace_parameters(model, lambda p: _with_memory(p, places[id(p)], device) if p.is_meta else p)
    bad: dict[str, float] = {}

    def read() -> None:
        with reading() as source:
            for name, parameter in model.named_parameters():
                if name in spans:
                    own = own_part(parameter).view(-1)
                    source.fill(spans[name], elements_of(parameter), own)
                    if not_numbers := sum(count_not_finite(piece) for piece in own.split(PIECE_BYTES // own.itemsize)):
                        bad[name] = not_numbers / copies_of(parameter, group.world_size)

    group.together(read)
    counts = [each for each in group.gather(bad) if isinstance(each, dict)]
    for name, parameter in model.named_parameters():
        if not_numbers := round(sum(each.get(name, 0.0) for each in counts)):
            raise not_finite(spans[name].file.parent, name, not_numbers, parameter.numel())
    return model


def _with_memory(parameter: nn.Parameter, span: TensorSpan, device: torch.device) -> nn.Parameter:
    """Return a parameter with memory for this rank's part of it.

    A whole one on the CPU lies as far from a border of 64 bytes as in its file. A product with one row adds up in
    another order where that differs (seen with heads of one output), and files that were mapped into memory said so.
    """
    if isinstance(parameter, DTensor) or device.type != "cpu" or parameter.dtype != DTYPES[span.dtype]:
        made = torch.empty_like(parameter, device=device)
    else:
        room = torch.empty(parameter.numel() + _BORDER // parameter.itemsize, dtype=parameter.dtype)
        shift = (span.offset - room.data_ptr()) % _BORDER // parameter.itemsize
        made = room[shift : shift + parameter.numel()].view(parameter.shape)
    return nn.Parameter(made, requires_grad=parameter.requires_grad)


@dataclass(frozen=True)
class Compared:
    """What became of one parameter, on all ranks together."""

    finite: bool
    same: bool
    """Every bit is what it was before step 0."""


def compare(start: nn.Module, model: nn.Module, group: Group) -> dict[str, Compared]:
    """Compare a placed model's parameters with what they were at its start; every rank is told the same, by name.

    What is kept in another type than the start has is compared with the start in that type; what is held in four bits,
    by the values that these stand for.
    """
    live, rounded = dict(model.named_parameters()), four_bit_weights(model)
    mine: dict[str, tuple[bool, bool]] = {}

    def look() -> None:
        with reading() as source:
            for name, before in start.named_parameters():
                after = live[name] if name in live else rounded[name].values()
                mine[name] = _compare(before, after, source)

    group.together(look)
    of_ranks = [each for each in group.gather(mine) if isinstance(each, dict)]
    return {name: Compared(*(all(each[name][i] for each in of_ranks) for i in (0, 1))) for name in mine}


def _compare(before: nn.Parameter, live: torch.Tensor, source: Source) -> tuple[bool, bool]:
    own, elements = own_part(live).view(-1), elements_of(live)
    finite = same = True
    for begin, piece in values(before, elements, source):
        after = own[begin - elements.first : begin - elements.first + piece.numel()]
        finite = finite and bool(after.isfinite().all())
        same = same and torch.equal(piece.to(after.device, after.dtype), after)
    return finite, same


def values(
    tensor: torch.Tensor, elements: Elements, source: Source
) -> Iterator[tuple[int, Shaped[torch.Tensor, " n"]]]:
    """Yield elements of a start's tensor, read from its file if it is unread, with the index of each piece's first."""
    if isinstance(tensor, Unread):
        yield from source.pieces(tensor.span, elements)
        return
    flat = tensor.detach().reshape(-1)
    step = PIECE_BYTES // flat.itemsize
    for begin in range(elements.first, elements.first + elements.count, step):
        yield begin, flat[begin : min(begin + step, elements.first + elements.count)]


def gather_into(start: nn.Module, model: nn.Module, names: Collection[str]) -> None:
    """Give a start a placed model's values of these parameters, whole, on every rank."""
    live = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in start.named_parameters():
            if name in names:
                parameter.copy_(whole(live[name]))


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of which each rank has a part, whole, on every rank."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
