"""Rows to batches: every padded batch of the product is made here, with the model's own padding.

transformers finds where a decoder's classifier reads by the config's `pad_token_id`, and never by the mask: a row that
is filled up with another token is read behind its end.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from ftlib.errors import ModelError
from ftlib.models.limits import text_config

Row = Sequence[int] | Int[np.ndarray, " _"]

SEGMENTS = "token_type_ids"


def takes(model: nn.Module, name: str) -> bool:
    """Say whether a model's forward pass has an input of that name."""
    plain = cast(Any, getattr(model, "get_base_model", lambda: model)())  # what peft wraps takes anything
    return name in inspect.signature(plain.forward).parameters


@dataclass(frozen=True)
class Collator:
    """Fills rows up to the longest of them, as one model wants it."""

    pad_token_id: int
    tokens: int | None
    """Rows of the model's embedding; None where its config does not say."""
    segments: bool
    """Whether the model takes `token_type_ids`: tokenizers give them to models that do not."""
    device: torch.device

    @classmethod
    def of(cls, model: nn.Module, device: torch.device | None = None) -> Collator:
        """Return the collator of a model's batches, which go to `device`: the model's own if none is given."""
        own = text_config(cast(Any, model).config)
        # Only where nothing reads the padding has a model none (`ftlib.kinds.padding`): then any token will do.
        return cls(
            pad_token_id=own.pad_token_id if getattr(own, "pad_token_id", None) is not None else 0,
            tokens=getattr(own, "vocab_size", None),
            segments=takes(model, SEGMENTS),
            device=next(model.parameters()).device if device is None else device,
        )

    def __call__(self, inputs: Mapping[str, Sequence[Row]], *, left: bool = False) -> dict[str, Tensor]:
        """Return tensors by name, rows x the longest row, and `attention_mask`: 1 on tokens, 0 on padding.

        `inputs` has the rows of `input_ids`, and of any other input with one number for each token. The padding is
        on the right, or on the `left`, where a text is to be continued.

        Raises ModelError for a token that the model's embedding has no row for.
        """
        rows = inputs["input_ids"]
        self._check(rows)
        lengths = np.array([len(row) for row in rows])
        places = np.arange(width := int(lengths.max()))
        mask = places >= width - lengths[:, None] if left else places < lengths[:, None]
        taken = {name: values for name, values in inputs.items() if self.segments or name != SEGMENTS}
        arrays = {name: self._filled(name, values, mask) for name, values in taken.items()}
        arrays["attention_mask"] = mask.astype(np.int64)
        return {name: torch.from_numpy(array).to(self.device, non_blocking=True) for name, array in arrays.items()}

    def _filled(
        self, name: str, rows: Sequence[Row], mask: Bool[np.ndarray, "rows width"]
    ) -> Int[np.ndarray, "rows width"]:
        filled = np.full(mask.shape, self.pad_token_id if name == "input_ids" else 0, np.int64)
        filled[mask] = np.concatenate(rows)
        return filled

    def _check(self, rows: Sequence[Row]) -> None:
        highest = max(int(np.max(row, initial=0)) for row in rows)
        if self.tokens is not None and highest >= self.tokens:
            raise ModelError(
                f"a row holds the token {highest}, and the model's embedding ends at {self.tokens - 1}: its tokenizer "
                "has tokens that the model was never given; take them out of the tokenizer, or resize the embedding"
            )
