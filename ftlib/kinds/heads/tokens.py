"""Every next token: causal language modelling."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM
from typing_extensions import override

from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.drawn_answers import drawn_log_probs, uniforms
from ftlib.kinds.heads.base import Answers, Head, Request
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.outcomes import TokenOutcomes
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets
from ftlib.kinds.token_log_probs import token_log_probs, token_terms


class TokenHead(Head):
    """Text itself: the model predicts each next token of a row."""

    auto_class: ClassVar[Any] = AutoModelForCausalLM
    # Logits take tokens x vocabulary: 2,048 x 50,000 in fp32 are 400 MB.
    largest_batch: ClassVar[int] = 2_048

    @override
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        return {}

    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Targets | None:
        """Return nothing: the tokens are the targets."""

    @override
    def scores(self, model: nn.Module, batch: Batch) -> Float[Tensor, " rows"]:
        """Return log p(supervised tokens) of each row, in nats."""
        return token_log_probs(model, batch).double().sum(dim=1)

    @override
    def numbers(self, labels: int) -> tuple[int, ...]:
        return ()

    @override
    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return that of another word for every supervised token, after the words that are there before it.

        Each is drawn alone, so the gradient's square is on average the sum of the tokens' own squares.
        """
        batch = self.answered(batch)
        where = next_tokens(batch) != UNTAUGHT
        at = uniforms(random, int(where.sum()), where.device)
        return token_terms([model], batch, lambda _, at, logits: drawn_log_probs(logits, at), at).sum()

    @override
    def answers(self, asked: Request) -> Answers:
        return TokenAnswers(asked.split, asked.tokenizer)


class TokenAnswers(Answers):
    """Collects the likelihood of every supervised token, given those before it."""

    def __init__(self, split: PreparedSplit, tokenizer: Callable[[], Any]) -> None:
        self.nll = np.zeros(len(split), np.float64)
        self.split, self._load = split, tokenizer

    @functools.cached_property
    def tokenizer(self) -> Any:
        """Return the model's tokenizer, loaded at the first use."""
        return self._load()

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        self.nll[rows] = -token_log_probs(model, batch, measured=True).double().sum(dim=1).cpu().numpy()

    @override
    def outcomes(self, common: Mapping[str, Any]) -> TokenOutcomes:
        return TokenOutcomes(**common, **self.likelihoods())

    def likelihoods(self) -> dict[str, Any]:
        """Return the columns of every language model's table."""
        return {"nll": self.nll, "targets": self.split.supervised, "target_bytes": self._target_bytes()}

    def spell(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> str:
        """Return the text of these tokens, special ones aside."""
        return self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def learnt(self, row: int) -> Int[np.ndarray, " tokens"]:
        """Return the tokens of a row that are predicted."""
        return self.split.tokens(row)[self.split.lengths[row] - self.split.supervised[row] :]

    def _target_bytes(self) -> Int[np.ndarray, " rows"]:
        """Return how many bytes of UTF-8 each row's targets spell."""
        texts = (self.spell(self.learnt(row)) for row in range(len(self.split)))
        return np.fromiter((len(text.encode()) for text in texts), np.int64, len(self.split))
