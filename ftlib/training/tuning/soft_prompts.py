"""What the tunings have in common that learn a prompt, and leave every weight of the model as it is."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.models.checkpoint import Form
from ftlib.training.tuning.by_peft import PeftTuning


class SoftPrompt(PeftTuning):
    """Numbers before every row, learnt; the phase ends in an adapter, since no weights of the model could hold them."""

    fits: ClassVar[frozenset[BatchKind] | None] = frozenset(
        {"labeled", "multi_labeled", "scored", "tagged", "spans", "tokens", "completions", "chats"}
    )
    merges: ClassVar[bool] = False
    packs: ClassVar[bool] = False
    starts_as_given: ClassVar[bool] = False

    virtual_tokens: int = Field(default=20, gt=0)
    """Places of the prompt. The model has so many fewer for a row."""

    @property
    @override
    def leaves(self) -> Form:
        return "adapter"

    @property
    @override
    def places(self) -> int:
        return self.virtual_tokens

    @override
    def misfit(self, reason: str) -> RecipeError:
        return RecipeError(f"tuning: this model cannot be prompted: {reason}; use lora or ia3")
