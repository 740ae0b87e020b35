"""Parameters that no gradient reaches, found by one pass before the model is spread over the workers."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ftlib.errors import TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.split import PreparedSplit
from ftlib.training.objectives import Objective


def freeze_unused(model: nn.Module, objective: Objective, parts: Sequence[PreparedSplit]) -> frozenset[str]:
    """Freeze the trainable parameters that no gradient reaches, and return their names.

    DDP would wait for such a parameter's gradient for ever, and AdamW's decay would move it. They are found by a pass
    over the two widest rows of every part, on the model's own device and not spread. Raises TrainingError if the
    objective counts other than the format did.
    """
    for part in parts:
        rows = part.sizes.argsort()[::-1][:2]
        loss = objective.loss(model.train(), part.batch(rows, Collator.of(model)))
        if loss.count != (counted := int(part.supervised[rows].sum())):
            raise TrainingError(
                f"objective {objective.kind!r} counts {loss.count} supervised items where the format counted "
                f"{counted}: the loss would be divided by the wrong number; make the two count alike"
            )
        loss.total.backward()
    unused = frozenset(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)
    for name, parameter in model.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
        parameter.grad = None
    return unused
