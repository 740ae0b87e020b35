"""The last layer for the one place that the head reads: behind its attention, each place is computed by itself.

An encoder's classifier reads the first place of a row, and what the last layer makes of the others reaches nothing. A
product of fewer rows may take its sums in another order: whoever leaves places out shows for each shape of a batch that
it comes to the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from ftlib.kinds.batch import Batch

_BEHIND_ATTENTION = ("attention.output", "sa_layer_norm")
"""What first reads a layer's attention, in families like BERT and DistilBERT; it is given tensors of rows x places."""


class FirstPlace:
    """A model that reads the first place alone behind its last layer's attention, and for which batches it may."""

    def __init__(self, blocks: Sequence[nn.Module], entry: nn.Module) -> None:
        """Leave nothing out yet; `entry` is the part of the last block from which on places could be left out."""
        self.before = tuple(blocks[:-1])
        """All blocks but the last."""
        self._entry = entry
        self._same: dict[tuple[object, ...], bool] = {}

    @classmethod
    def of(cls, blocks: Sequence[nn.Module], ask: Callable[[], Tensor]) -> FirstPlace | None:
        """Return it for a model of these blocks whose logits `ask` returns; None where more than the place is read."""
        parts = dict(blocks[-1].named_modules()) if len(blocks) > 1 else {}
        entry = next((parts[name] for name in _BEHIND_ATTENTION if name in parts), None)
        if entry is None:
            return None
        # NaN times a weight of 0 is NaN still: a fresh head hides nothing.
        with suppress(*REFUSALS), _given(entry, _spoilt) as spoilt:
            if ask().isfinite().all() and spoilt:
                return cls(blocks, entry)
        return None

    def knows(self, batch: Batch) -> bool:
        """Say whether it was seen, for a batch of this shape, if the other places may be left out."""
        return _shape(batch) in self._same

    def serves(self, batch: Batch) -> bool:
        """Say whether a batch of this shape has come to the same bits without the other places."""
        return self._same.get(_shape(batch), False)

    def learn(self, batch: Batch, same: bool) -> None:
        """Remember whether a batch of this shape came to the same bits."""
        self._same[_shape(batch)] = same

    @contextmanager
    def alone(self) -> Generator[None]:
        """Leave the other places out."""
        with _given(self._entry, lambda states: states[:, :1]):
            yield


REFUSALS = (ValueError, TypeError, IndexError, RuntimeError, AssertionError)
"""What a model raises that needs the other places there."""


@contextmanager
def _given(part: nn.Module, change: Callable[[Tensor], Tensor]) -> Generator[list[bool]]:
    """Give a part of a model something else than what it is called with; the list has an entry for each call."""
    calls: list[bool] = []

    def changed(_: object, given: tuple[Any, ...]) -> tuple[Any, ...]:
        calls.append(True)
        return tuple(change(states) if isinstance(states, Tensor) else states for states in given)

    hook = part.register_forward_pre_hook(changed)
    try:
        yield calls
    finally:
        hook.remove()


def _spoilt(states: Tensor) -> Tensor:
    spoilt = states.clone()
    spoilt[:, 1:] = torch.nan
    return spoilt


def _shape(batch: Batch) -> tuple[object, ...]:
    return tuple((name, tensor.shape) for name, tensor in batch.inputs.items())
