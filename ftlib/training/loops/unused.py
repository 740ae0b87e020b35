"""Parameters that no gradient reaches, found by one pass before the model's replicas are bound."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from torch import nn

from ftlib.errors import TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.split import PreparedSplit
from ftlib.training.group import Group, computes_on
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.modes import into_training


def freeze_unused(
    model: nn.Module,
    objective: Any,
    companions: Mapping[str, nn.Module],
    parts: Sequence[PreparedSplit],
    precision: Literal["fp32", "bf16"],
) -> frozenset[str]:
    """Freeze the trainable parameters that no gradient reaches, and return their names.

    DDP would wait for such a parameter's gradient for ever, and AdamW's decay would move it. They are found by passes
    over the two widest rows of every part, where the model is to train: every rank does the same one, and the ranks of
    a sharded model do it together. Raises TrainingError if the objective's loss counts other than the format did, or
    than what it prepared.
    """
    alone = Group(rank=0, world_size=1, device=computes_on(model))
    asking = Asking(
        objective,
        model,
        Collator.of(model, alone.device),
        alone,
        companions=companions,
        precision=precision,
        micro_batch_size=1,  # there may be no room for more
    )
    into_training(model, updated=False, dropout=asking.drops_out)  # its statistics are not to move for a question
    for part in parts:
        pieces, expected = asking.pieces(part, part.sizes.argsort()[::-1][:2])
        counted = 0
        for piece in pieces:
            loss = asking.loss(part, piece)
            loss.total.backward()
            counted += int(loss.count)
        if counted != expected:
            raise TrainingError(
                f"objective {objective.kind!r} counts {counted} supervised items where the format counted "
                f"{expected}: the loss would be divided by the wrong number; make the two count alike"
            )
    unused = frozenset(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)
    for name, parameter in model.named_parameters():
        if name in unused:
            parameter.requires_grad_(False)
        parameter.grad = None
    return unused
