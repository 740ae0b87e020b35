"""One vector per row: what all heads of sequence classification have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Head


class SequenceHead(Head):
    """What the heads share that give one answer a row: transformers' sequence classifier."""

    auto_class: ClassVar[Any] = AutoModelForSequenceClassification
    largest_batch: ClassVar[int] = 32_768


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """Return rows x outputs in float64: what is measured is not rounded twice."""
    return model(**batch.inputs).logits.double()
