"""What a frozen model says of each row in one number or a few: what training reads instead of asking it every step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from ftlib.errors import ModelError
from ftlib.evaluation.forward_pass import batches_of
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.token_log_probs import token_log_probs


def score_rows(
    model: nn.Module, split: PreparedSplit, precision: Literal["fp32", "bf16"], on_rows: Callable[[int], None]
) -> Float[np.ndarray, " *rows"]:
    """Return every row's number or numbers, in float32: a language model's log p(supervised tokens), else its logits.

    They are computed by the forward pass of training, in its precision and with dropout off. `on_rows` hears how many
    rows are done. Raises ModelError for a number that is not finite.
    """
    collate, done = Collator.of(model), 0
    found: dict[int, Float[np.ndarray, " *row"]] = {}
    model.eval()
    with torch.inference_mode(), torch.autocast(collate.device.type, torch.bfloat16, enabled=precision == "bf16"):
        for rows in batches_of(split):
            batch = split.batch(rows, collate)
            if KINDS[split.kind].language:
                said = token_log_probs(model, batch).double().sum(dim=1)
            else:
                said = cast(Any, model)(**batch.inputs).logits
            scores = said.float().cpu().numpy()
            found |= dict(zip(rows.tolist(), scores, strict=True))
            done += len(rows)
            on_rows(done)
    scores = np.stack([found[row] for row in range(len(split))]) if found else np.zeros(0, np.float32)
    if not np.isfinite(scores).all():
        raise ModelError("its answer is not finite on some rows: its weights overflow; choose another model")
    return scores
