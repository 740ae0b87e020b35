"""Every next token: causal language modelling."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from ftlib.batch import Batch
from ftlib.outcomes import TokenOutcomes
from ftlib.training.heads.base import Answers, Head

if TYPE_CHECKING:
    from ftlib.training.batches import PreparedSplit


class TokenHead(Head):
    """See Head."""

    auto_class: ClassVar[Any] = AutoModelForCausalLM
    own_layer: ClassVar[bool] = False
    # Logits take tokens x vocabulary: 2,048 x 50,000 in fp32 are 400 MB.
    largest_batch: ClassVar[int] = 2_048

    def config(self, labels: Sequence[str]) -> dict[str, object]:
        """See Head."""
        return {}

    def targets(self, column: pa.ChunkedArray | None, labels: Sequence[str], path: Path) -> None:
        """Return nothing: the tokens are the targets."""

    def answers(self, split: PreparedSplit, labels: tuple[str, ...], tokenizer: Callable[[], Any]) -> TokenAnswers:
        """See Head."""
        return TokenAnswers(split, tokenizer)


class TokenAnswers(Answers):
    """Collects the likelihood of every token but the first, given those before it."""

    def __init__(self, split: PreparedSplit, tokenizer: Callable[[], Any]) -> None:
        self.nll = np.zeros(len(split), np.float64)
        self._split, self._tokenizer = split, tokenizer

    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        """See Answers."""
        logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        losses = nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), batch.input_ids[:, 1:], reduction="none"
        )
        # `where`, not a product: a NaN on a padded position must not reach the sum.
        self.nll[rows] = torch.where(batch.attention_mask[:, 1:].bool(), losses, 0.0).double().sum(dim=1).cpu().numpy()

    def outcomes(self, common: Mapping[str, Any]) -> TokenOutcomes:
        """See Answers."""
        spelt = target_bytes(self._split, self._tokenizer())
        return TokenOutcomes(**common, nll=self.nll, targets=self._split.supervised, target_bytes=spelt)


def target_bytes(split: PreparedSplit, tokenizer: Any) -> Int[np.ndarray, " rows"]:
    """Return how many bytes of UTF-8 each row's targets spell: all tokens but the first, special ones aside."""
    texts = (
        tokenizer.decode(split.tokens(row)[1:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in range(len(split))
    )
    return np.fromiter((len(text.encode()) for text in texts), np.int64, len(split))
