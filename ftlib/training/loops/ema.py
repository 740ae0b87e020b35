"""The exponential moving average of the weights along one training (Polyak & Juditsky 1992, with a fading memory).

After the first optimiser step the average is the weights, after every further one

    average <- decay * average + (1 - decay) * weights

as torch's AveragedModel with get_ema_multi_avg_fn. Only what trains has an average: frozen parameters are their own,
and buffers (BatchNorm's statistics) stay what the trained weights made them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from ftlib.training.group import own_part, shard_again, unwrap


class Average:
    """The average of one rank's parameters: of all of them under DDP, of its own shards under FSDP2."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin an average of the trainable parameters of a model that is spread over its group already."""
        self._model, self._decay = unwrap(model), decay
        self._live = {name: p for name, p in self._model.named_parameters() if p.requires_grad}
        self.tensors = {name: p.detach().clone() for name, p in self._live.items()}
        """Name to average, in fp32 as the parameters are; what a checkpoint saves and, in place, restores."""

    def _pairs(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield each of this rank's averages with its weights, as plain tensors that share their memory."""
        for name, parameter in self._live.items():
            yield own_part(self.tensors[name]), own_part(parameter)

    @torch.no_grad()
    def update(self, *, first: bool) -> None:
        """Take in the weights after an optimiser step; the first step's are the average."""
        if first:
            self.take()
            return
        for average, weights in self._pairs():
            average.lerp_(weights, 1.0 - self._decay)

    @torch.no_grad()
    def take(self) -> None:
        """Begin again at the weights: a teacher that is renewed now and then is an average that only does this."""
        for average, weights in self._pairs():
            average.copy_(weights)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and their average, bit for bit, with memory for one more tensor."""
        for average, weights in self._pairs():
            kept = weights.clone()
            weights.copy_(average)
            average.copy_(kept)
        shard_again(self._model)  # or the next forward pass would compute with what is gathered


@contextmanager
def averaged(average: Average | None) -> Generator[None]:
    """Let the model have its averaged weights while the block runs; without an average, leave it as it is."""
    if average is None:
        yield
        return
    average.swap()
    try:
        yield
    finally:
        average.swap()
