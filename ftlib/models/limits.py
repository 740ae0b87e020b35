"""What a model can read at all: how many tokens in a row, and which; by its config and its layers, without weights."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from ftlib.errors import ModelError, first_line
from ftlib.models import denoiser as _registers_itself  # noqa: F401  # pyright: ignore[reportUnusedImport]  # with AutoConfig
from ftlib.models.checkpoint import ADAPTER_CONFIG
from ftlib.models.folder import is_adapter, read_config, read_json
from ftlib.models.quiet import quiet

_TABLES = ("position_embeddings", "position_embedding", "embed_positions", "wpe", "positions_embed")
"""What transformers calls a table of absolute positions, whatever the architecture."""


class Limits(NamedTuple):
    """None: without a limit, or it is not known."""

    positions: int | None
    """Tokens of a row."""
    tokens: int | None
    """Rows of the embedding."""
    end: int | None
    """Of an encoder-decoder: the token at whose last place a head for whole rows reads."""


def load_config(folder: Path, **changed: object) -> Any:
    """Read a folder's config as transformers does, with its defaults. Raises ModelError for one it does not take."""
    read_config(folder)  # an adapter, a file that is no JSON, labels without numbers: in our words
    try:
        with quiet():
            return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **changed)
    except Exception as error:  # its strict fields raise classes of huggingface_hub's own, and no two versions the same
        raise ModelError(
            f"{folder}/config.json cannot be read by transformers: {first_line(error)}; correct it"
        ) from error


def text_config(config: Any) -> Any:
    """Return the part of a model's config that is about text: models of several senses nest it."""
    try:
        return config.get_text_config()
    except ValueError:  # an encoder's and a decoder's, side by side: transformers asks the outer one
        return config


def ids_of(value: object) -> list[int]:
    """Return the token ids that a config names in one of its fields; Llama 3 has a list of end tokens."""
    values = cast("list[object]", value if isinstance(value, (list, tuple)) else [value])
    return [id for id in values if isinstance(id, int) and not isinstance(id, bool)]


def decoder_start(folder: Path) -> int:
    """Return the token that a folder's decoder begins with. Raises ModelError where its config names none."""
    start = next(iter(ids_of(getattr(load_config(folder), "decoder_start_token_id", None))), None)
    if start is None:
        raise ModelError(
            f"{folder}/config.json names no decoder_start_token_id, with which an encoder-decoder begins what it "
            "writes; write the id into it: T5 and Marian begin with the padding's, BART with the end token's"
        )
    return start


def limits_of(folder: Path) -> Limits:
    """Return what the model in a folder can read, behind a prompt that its adapter has.

    Raises ModelError for a config that makes no model.
    """
    config = load_config(folder)
    own = text_config(config)
    positions = positions_of(own, without_weights(config, folder))
    if positions is not None:
        positions -= _places_of_prompt(folder)
    tokens: int | None = getattr(own, "vocab_size", None)
    ends = ids_of(getattr(own, "eos_token_id", None)) if config.is_encoder_decoder else []
    return Limits(positions, tokens, next(iter(ends), None))


def _places_of_prompt(folder: Path) -> int:
    """Return the places that the adapter in a folder takes from every row; 0 of dense weights and other adapters."""
    config = read_json(folder / ADAPTER_CONFIG) if is_adapter(folder) else {}
    places = cast("dict[str, object]", config).get("num_virtual_tokens") if isinstance(config, dict) else None
    return places if isinstance(places, int) else 0


def positions_of(own: Any, model: nn.Module) -> int | None:
    """Return how many tokens a row of a model can have, by the text part of its config and its tables of positions."""
    limits = [getattr(own, name, None) for name in ("max_position_embeddings", "max_decoder_position_embeddings")]
    positions = [n for n in limits if isinstance(n, int) and n > 0]
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _TABLES and isinstance(module, nn.Embedding):
            positions.append(_usable(module))
    return min(positions, default=None)


def _usable(table: nn.Embedding) -> int:
    """Return how many positions a row can have: some families number them from behind the padding's id on.

    They keep that place of the table for padding (RoBERTa, XLM-R, CamemBERT, Longformer, MPNet, ...), which is how
    they are told; others move all positions by an `offset` of their own (BART, OPT).
    """
    first = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - max(first, int(getattr(table, "offset", 0)))


def without_weights(config: Any, folder: Path) -> nn.Module:
    """Return a config's model without memory for its weights. Raises ModelError for a config that makes none."""
    try:
        with quiet(), torch.device("meta"), contextlib.suppress(ImportError):
            return cast(nn.Module, AutoModel.from_config(config))
    except (ValueError, KeyError, TypeError, RuntimeError, AssertionError, AttributeError) as error:
        raise ModelError(f"{folder}/config.json makes no model: {first_line(error)}; correct it") from error
    return nn.Module()  # a library is missing, as loading will say
