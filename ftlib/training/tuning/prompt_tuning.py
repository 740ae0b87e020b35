"""Prompt tuning: embeddings before a row's own."""

from __future__ import annotations

import math
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import model_validator
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.training.tuning.soft_prompts import SoftPrompt

if TYPE_CHECKING:
    from torch import nn


class PromptTuning(SoftPrompt):
    """`virtual_tokens` embeddings are learnt and put before those of every row (Lester et al. 2021, arXiv 2104.08691).

    By peft. The head is trained in full. Longer prompts and high rates (0.01 to 0.3) are usual.
    """

    kind: Literal["prompt_tuning"] = "prompt_tuning"
    init: Literal["vocabulary", "random"] = "vocabulary"
    """What the prompt begins as: the embeddings of words drawn from the vocabulary, or normal numbers, which are far
    larger than a model's embeddings."""
    init_text: str | None = None
    """The prompt begins as the embeddings of this text's tokens, repeated or cut to `virtual_tokens`."""

    makes: ClassVar[str] = "PROMPT_TUNING"

    @property
    @override
    def takes_over(self) -> frozenset[str]:
        """P-tuning's prompt is one like another, once its encoder is gone."""
        return frozenset({"PROMPT_TUNING", "P_TUNING"})

    @model_validator(mode="after")
    def _check_init(self) -> PromptTuning:
        if self.init_text is not None and not self.init_text.strip():
            raise ValueError("init_text is blank; write a text, or leave it out")
        if self.init_text is not None and "init" in self.model_fields_set and self.init == "random":
            raise ValueError("init: random and an init_text: the prompt begins as one of them; remove the other")
        return self

    @override
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config: always of a random prompt, since whoever loads it has no text to begin with."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type=KINDS[kind].task_type,
            num_virtual_tokens=self.virtual_tokens,
            modules_to_save=self.whole_modules(kind, head),
        )

    @override
    def begin(self, model: nn.Module) -> None:
        """Give the prompt its first values. Raises RecipeError for a text of which the tokenizer makes nothing."""
        import torch

        from ftlib.models.unread import values_of

        wrapped = cast(Any, model)
        prompt, words = wrapped.prompt_encoder["default"].embedding, wrapped.word_embeddings
        if prompt.weight.is_meta or (self.init == "random" and self.init_text is None):
            return
        ids = (
            torch.randint(words.num_embeddings, (self.virtual_tokens,))
            if self.init_text is None
            else torch.tensor(self._first_words(self.init_text, wrapped))
        )
        with torch.no_grad(), values_of(words):
            prompt.weight.copy_(words(ids))  # as a row's are made: some families scale them

    def _first_words(self, text: str, model: Any) -> list[int]:
        from ftlib.kinds.loading import load_tokenizer

        ids: list[int] = load_tokenizer(Path(model.get_base_model().name_or_path))(text, add_special_tokens=False)[
            "input_ids"
        ]
        if not ids:
            raise RecipeError(f"tuning.init_text: the model's tokenizer makes no token of {text!r}; write another text")
        return (ids * math.ceil(self.virtual_tokens / len(ids)))[: self.virtual_tokens]
