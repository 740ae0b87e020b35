"""Perplexity per token."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.config import BatchKind, Config


class Perplexity(Config):
    """exp(sum of negative log-likelihoods / number of tokens), over the corpus and not a mean over batches."""

    kind: Literal["perplexity"] = "perplexity"

    needs: ClassVar[BatchKind] = "tokens"
    higher_is_better: ClassVar[bool] = False
