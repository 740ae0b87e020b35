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
from jaxtyping import Bool, Int, Real
from torch import Tensor, nn

from ftlib.data.inputs import INPUT_IDS, POSITIONS, SEGMENTS, TEXT, Inputs, Marks, Numbers, Pixels, Tokens
from ftlib.errors import ModelError
from ftlib.models.limits import positions_of, text_config

Row = Sequence[int] | Int[np.ndarray, " _"]

SEGMENTED_TEXT: Inputs = (*TEXT, Marks(name=SEGMENTS))
"""Tokens, and which of two texts each belongs to."""


def takes(model: nn.Module, name: str) -> bool:
    """Say whether a model's forward pass has an input of that name."""
    return name in _arguments(model)


def _arguments(model: nn.Module) -> frozenset[str]:
    plain = cast(Any, getattr(model, "get_base_model", lambda: model)())  # what peft wraps takes anything
    parameters = inspect.signature(plain.forward).parameters.values()
    return frozenset(one.name for one in parameters if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD))


@dataclass(frozen=True)
class Collator:
    """Makes tensors of rows' inputs, as one model wants them."""

    pad_token_id: int
    tokens: int | None
    """Rows of the model's embedding; None where its config does not say."""
    arguments: frozenset[str]
    """What the model's forward pass takes, by name: tokenizers give segments to models that have no use for them."""
    device: torch.device
    width_multiple: int = 1
    """Rows of tokens are padded to a multiple of so many: what is compiled, is compiled for fewer widths."""
    positions: int | None = None
    """How long the model's rows can be: that far and no further are they padded. None: without a limit."""

    @classmethod
    def of(cls, model: nn.Module, device: torch.device | None = None, *, width_multiple: int = 1) -> Collator:
        """Return the collator of a model's batches, which go to `device`: the model's own if none is given."""
        own = text_config(cast(Any, model).config)
        # Only where nothing reads the padding has a model none (`ftlib.kinds.padding`): then any token will do.
        return cls(
            pad_token_id=own.pad_token_id if getattr(own, "pad_token_id", None) is not None else 0,
            tokens=getattr(own, "vocab_size", None),
            arguments=_arguments(model),
            device=next(model.parameters()).device if device is None else device,
            width_multiple=width_multiple,
            positions=positions_of(own, model),
        )

    def __call__(
        self, rows: Mapping[str, Sequence[Any]], inputs: Inputs = SEGMENTED_TEXT, *, left: bool = False
    ) -> dict[str, Tensor]:
        """Return what the model is called with, by name: the columns of `inputs` that `rows` has.

        Tokens and marks become int64, rows x the longest row, padded on the right, or on the `left`, where a text is
        to be continued; tokens bring a mask: 1 on tokens, 0 on padding. Numbers become float32, rows x their
        shape; pixels too, in the unit that the column says the model reads.

        Raises ModelError for a token that the model's embedding has no row for, or an input that it does not take.
        """
        arrays: dict[str, np.ndarray] = {}
        for column in inputs:
            if column.name not in rows or (isinstance(column, Marks) and column.name not in self.arguments):
                continue
            cells = rows[column.name]
            if self.arguments and column.name not in self.arguments:
                raise ModelError(
                    f"the rows hold the input {column.name!r}, and the model takes "
                    f"{', '.join(sorted(self.arguments))}: give a model of this modality, or another format"
                )
            if isinstance(column, Numbers):
                arrays[column.name] = np.stack([column.array(cell) for cell in cells])
                continue
            if isinstance(column, Pixels):
                pixels = [cell if _is_augmented(cell) else column.array(cell) for cell in cells]
                arrays[column.name] = in_the_models_unit(np.stack(pixels), column)
                continue
            lengths = [len(cell) for cell in cells]
            mask = _mask(lengths, self._width(max(lengths)), left=left)
            if isinstance(column, Tokens):
                self._check(cells)
                arrays[column.mask] = mask.astype(np.int64)
            arrays[column.name] = _filled(cells, mask, self.pad_token_id if isinstance(column, Tokens) else 0)
        return {name: self.sent(torch.from_numpy(array)) for name, array in arrays.items()}

    def pack(self, rows: Mapping[str, Sequence[Any]], inputs: Inputs) -> tuple[dict[str, Tensor], Tensor, int]:
        """Return rows of tokens as one, its borders and the tokens of the longest: the `inputs` and more of a `Batch`.

        There is no mask: with one, even of ones alone, transformers takes a pack for one text, whose rows see each
        other. Raises ModelError as a call does.
        """
        lengths = [len(cell) for cell in rows[INPUT_IDS]]
        padding = -sum(lengths) % self.width_multiple
        lengths += [padding] if padding else []
        arrays = {POSITIONS: np.concatenate([np.arange(length) for length in lengths])}
        for column in inputs:
            if column.name not in self.arguments and isinstance(column, Marks):
                continue
            cells, fill = rows[column.name], 0
            if isinstance(column, Tokens):
                self._check(cells)
                fill = self.pad_token_id
            arrays[column.name] = np.concatenate([*cells, np.full(padding, fill)])
        sent = {name: self.sent(torch.from_numpy(array.astype(np.int64))[None]) for name, array in arrays.items()}
        borders = np.cumsum([0, *lengths]).astype(np.int32)
        return sent, self.sent(torch.from_numpy(borders)), max(lengths)

    def sent(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the processor's on the model's device. A GPU's copy is queued and waits for nothing.

        From memory that is not pinned it would wait for all that is queued, whatever `non_blocking` says.
        """
        if self.device.type == "cuda":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _width(self, longest: int) -> int:
        width = longest + -longest % self.width_multiple
        return width if self.positions is None else max(longest, min(width, self.positions))

    def _check(self, rows: Sequence[Row]) -> None:
        highest = max(int(np.max(row, initial=0)) for row in rows)
        if self.tokens is not None and highest >= self.tokens:
            raise ModelError(
                f"a row holds the token {highest}, and the model's embedding ends at {self.tokens - 1}: its tokenizer "
                "has tokens that the model was never given; take them out of the tokenizer, or resize the embedding"
            )


def _is_augmented(cell: object) -> bool:
    """Say whether pixels were changed on their way from the split, which holds them as uint8."""
    return isinstance(cell, np.ndarray) and cell.dtype == np.float32


def in_the_models_unit(pixels: Real[np.ndarray, "rows 3 height width"], column: Pixels) -> np.ndarray:
    """Return float32, as transformers' image processors rescale and normalise."""
    mean, std = (np.array(values, np.float32)[:, None, None] for values in (column.mean, column.std))
    return (pixels.astype(np.float32) * np.float32(column.scale) - mean) / std


def _mask(lengths: Sequence[int], width: int, *, left: bool) -> Bool[np.ndarray, "rows width"]:
    """Return what is no padding."""
    places = np.arange(width)
    counts = np.array(lengths)[:, None]
    return places >= width - counts if left else places < counts


def _filled(rows: Sequence[Row], mask: Bool[np.ndarray, "rows width"], padding: int) -> Int[np.ndarray, "rows width"]:
    filled = np.full(mask.shape, padding, np.int64)
    filled[mask] = np.concatenate(rows)
    return filled
