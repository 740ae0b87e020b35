"""Next-token cross-entropy."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.config import BatchKind, Config


class CausalLM(Config):
    """The mean negative log-likelihood of every next token, over tokens and not over rows."""

    kind: Literal["causal_lm"] = "causal_lm"

    needs: ClassVar[BatchKind] = "tokens"
