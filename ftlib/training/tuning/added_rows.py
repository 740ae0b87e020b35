"""Rows of an embedding that train beside an adapter, by peft's layer for them: what tokens that were added mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from ftlib.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn


def rows_to_train(model: nn.Module, rows: Sequence[int]) -> dict[str, list[int]]:
    """Return peft's `trainable_token_indices` of the model's embedding, and of its output where that is not tied to it.

    Raises RecipeError for rows that the embedding has not, and for an output with a bias, which peft would leave out.
    """
    one: Any = model
    embedding, output = one.get_input_embeddings(), one.get_output_embeddings()
    names = {id(module): name for name, module in model.named_modules()}
    if embedding is None or max(rows) >= embedding.weight.shape[0]:
        has = "no embedding" if embedding is None else f"{embedding.weight.shape[0]} rows"
        raise RecipeError(f"tuning.token_rows: {max(rows)} is no row of the model's embedding, which has {has}")
    trained = {names[id(embedding)]: [*rows]}
    if output is not None and output.bias is not None:
        raise RecipeError(
            "tuning.token_rows: the output of this model has a bias, which peft leaves out where it trains rows; use "
            "full"
        )
    if output is not None and output.weight is not embedding.weight:
        trained[names[id(output)]] = [*rows]
    return trained


def begin_rows(model: nn.Module) -> None:
    """Let the rows begin at the values of weights that were unread when peft took them."""
    import torch
    from peft.tuners.trainable_tokens import TrainableTokensLayer

    from ftlib.models.unread import values_of

    layers = [cast(Any, module) for module in model.modules() if isinstance(module, TrainableTokensLayer)]
    for layer in layers:
        if layer.tied_adapter is None:
            with values_of(layer.get_base_layer()), torch.no_grad():
                values = layer.get_base_layer().weight[layer.token_indices["default"]]
                layer.trainable_tokens_original["default"] = values.clone()
                layer.trainable_tokens_delta["default"].copy_(values)
