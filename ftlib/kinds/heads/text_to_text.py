"""What an encoder-decoder writes of a source: the likelihood of its target, and what it writes instead."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM
from typing_extensions import override

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.kinds.batch import Batch
from ftlib.kinds.heads.base import Request
from ftlib.kinds.heads.completions import CompletionAnswers, CompletionHead


class TextToTextHead(CompletionHead):
    """Sources and targets: the target's tokens are predicted, and written where it is asked for."""

    auto_class: ClassVar[Any] = AutoModelForSeq2SeqLM

    @override
    def answers(self, asked: Request) -> TextToTextAnswers:
        return TextToTextAnswers(asked)


class TextToTextAnswers(CompletionAnswers):
    """Collects the likelihood of every target, and what the decoder writes behind the token that it begins with."""

    @override
    def prompts(self, batch: Batch, rows: Int[np.ndarray, " rows"]) -> list[Tensor]:
        lengths = batch.inputs[ATTENTION_MASK].sum(dim=1).tolist()
        return [row[:length] for row, length in zip(batch.inputs[INPUT_IDS], lengths, strict=True)]
