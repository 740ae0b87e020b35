"""Which modules of a model are in training mode: dropout is, a BatchNorm only where its statistics are to move.

A BatchNorm in training mode normalises a row by the rows that are computed with it, and moves its running statistics
towards theirs: what a step does would depend on how its batch is split. In eval mode it is one affine map of a channel,
with weight and bias that may learn.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager

from torch import nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def batch_norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield a model's layers of BatchNorm, by name."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, _BATCH_NORMS))


def moving_statistics(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of BatchNorm that `batch_norm: updated` moves, by name: those whose own weights train.

    A layer without weights moves with nothing. What is frozen does not drift.
    """
    return {name: m for name, m in batch_norms(model) if any(p.requires_grad for p in m.parameters(recurse=False))}


def into_training(model: nn.Module, *, updated: bool, dropout: bool) -> nn.Module:
    """Put a model into training mode, but for the layers of BatchNorm whose statistics stay; return it.

    Without `dropout` it is in eval mode, as what its answers are compared with was.
    """
    if not dropout:
        return model.eval()
    model.train()
    moving = moving_statistics(model) if updated else {}
    for name, module in batch_norms(model):
        module.train(name in moving)
    return model


def rest_frozen(model: nn.Module) -> None:
    """Put into eval mode the modules that have parameters, all of them frozen, with all that is in them: dropout."""
    for module in model.children():
        parameters = [*module.parameters()]
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
        elif parameters:
            rest_frozen(module)


@contextmanager
def answering(model: nn.Module) -> Generator[None]:
    """Put a model into eval mode while the block runs, and then each of its modules back into the mode it had."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
