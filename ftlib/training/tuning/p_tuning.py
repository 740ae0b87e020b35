"""P-tuning: a prompt's embeddings through an encoder of their own."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.kinds.kind import KINDS
from ftlib.training.tuning.soft_prompts import SoftPrompt

if TYPE_CHECKING:
    from torch import nn


class PTuning(SoftPrompt):
    """The embeddings of a prompt are learnt through an encoder, which ties them together (Liu et al. 2021, 2103.10385).

    By peft. The head is trained in full. What is saved is the prompt that the encoder makes, and not the encoder: from
    there a phase goes on by `prompt_tuning`.
    """

    kind: Literal["p_tuning"] = "p_tuning"
    encoder: Literal["mlp", "lstm"] = "mlp"
    """Three linear layers, or a bidirectional LSTM of two layers and two linear ones, as the authors had it."""
    hidden: int | None = Field(default=None, gt=0)
    """Width of the encoder; null: the model's own."""

    makes: ClassVar[str] = "P_TUNING"

    @property
    @override
    def takes_over(self) -> frozenset[str]:
        """Nothing: what was saved is the prompt, and not the encoder that made it."""
        return frozenset()

    @override
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config."""
        from peft import PromptEncoderConfig

        width: dict[str, Any] = {} if self.hidden is None else {"encoder_hidden_size": self.hidden}
        return PromptEncoderConfig(
            task_type=KINDS[kind].task_type,
            num_virtual_tokens=self.virtual_tokens,
            encoder_reparameterization_type=self.encoder.upper(),
            modules_to_save=self.whole_modules(kind, head),
            **width,
        )
