"""Which token fills a model's rows up, and the proof that no answer depends on it.

Decoders with a head for whole rows read at the last token that is not the config's `pad_token_id`, and encoder-decoders
at the last end token: what a row is filled up with decides where such a model reads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor, nn

from ftlib.config import BatchKind
from ftlib.data.inputs import DECODER_IDS, INPUT_IDS, SEGMENTS, TEXT_TO_TEXT, answer_input
from ftlib.errors import ModelError, first_line
from ftlib.kinds.collate import SEGMENTED_TEXT, Collator, takes
from ftlib.kinds.kind import KINDS
from ftlib.kinds.soft_prompts import method_of
from ftlib.kinds.split import PreparedSplit
from ftlib.models.limits import ids_of, text_config

TOLERANCE = 1e-4
"""What padding may move; the rounding of fp32 sums of another width is 1e-6."""

HALF_TOLERANCE = 0.05
"""What padding may move in bf16, whose sums of another width are rounded by some thousandths: less than padding that is
read."""

_TEXTS = (
    "a",
    "the screen stays blank",
    "please tell me again when the parcel of last week will be here, and who has it",
)
"""What the proof asks; tokenizers of any language can spell it."""


def settle(config: Any, folder: Path, kind: BatchKind, tokenizer: Callable[[], Any]) -> None:
    """Give a config a padding id, where it has none that the embedding holds: what is loaded and published has one.

    It is the tokenizer's, else the end token of config or tokenizer. Raises ModelError if there is none to give to a
    model that finds the place it reads by it.
    """
    own = text_config(config)
    ends = frozenset(ids_of(getattr(own, "eos_token_id", None)))
    # An encoder-decoder reads at its last end token: rows filled up with more of them would be read there.
    taken: frozenset[int] = ends if config.is_encoder_decoder and KINDS[kind].reads_one_place else frozenset()

    def fits(id: object) -> bool:
        return id in ids_of(id) and id not in taken and 0 <= cast(int, id) < getattr(own, "vocab_size", float("inf"))

    if fits(getattr(own, "pad_token_id", None)):
        return
    pad = next(filter(fits, _candidates(own, tokenizer)), None)
    # Without a vocabulary it reads no tokens: there is nothing to fill up.
    if pad is None and KINDS[kind].reads_one_place and hasattr(own, "vocab_size"):
        end = " but its end token, which it reads at," if taken else ""
        raise ModelError(
            f"{folder}: neither config.json nor the tokenizer has a token{end} to fill rows up with, and the model "
            "finds the place where it reads by it; write the id of one into config.json as pad_token_id"
        )
    for part in (config, own):
        part.pad_token_id = pad


def _candidates(own: Any, load: Callable[[], Any]) -> Iterator[object]:
    try:
        tokenizer = load()
    except ModelError:  # of a folder without one; a language model needs none to be merged
        tokenizer = None
    yield getattr(tokenizer, "pad_token_id", None)
    yield from ids_of(getattr(own, "eos_token_id", None))
    yield getattr(tokenizer, "eos_token_id", None)


def own_logits(kind: BatchKind, output: Any, lengths: Sequence[int]) -> list[Tensor]:
    """Return what a model says of each row: its logits, without those at padding."""
    logits = KINDS[kind].head().logits(output)
    if logits.ndim == 2:
        return list(logits)
    return [row[:length] for row, length in zip(logits, lengths, strict=True)]


def largest_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """Return the largest difference of two models' logits; NaN if one is no number."""
    pairs = zip(ours, theirs, strict=True)
    return float(torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max())


def moved_by_padding(together: Sequence[Tensor], alone: Sequence[Tensor], least: float = 1.0) -> float:
    """Return the largest difference of rows asked in one batch from the same rows asked alone.

    In units of the largest logit, or of `least` if that is larger: sums of another width are rounded otherwise.
    """
    return largest_difference(together, alone) / max(least, *(float(row.abs().max()) for row in alone))


@torch.inference_mode()
def check_padding(model: nn.Module, kind: BatchKind, tokenizer: Any, name: str, longest: int | None) -> None:
    """Ask a model in a padded batch what stock transformers asks it alone; before anything is trained.

    Raises ModelError, by name, for a model whose answers depend on the padding, or on inputs that are not given here
    (XLNet reads the row's last place, FNet mixes all of them), or one that cannot answer at all.
    """
    rows = text_rows(kind, tokenizer, longest, model)
    if not rows:
        return
    what = type(model).__name__
    try:
        together, alone = answers_to(model, kind, rows)
    except (ValueError, TypeError, IndexError, RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise ModelError(
            f"{name} ({what}) cannot answer a text with its own tokenizer: {reason}; give another model"
        ) from error
    difference = moved_by_padding(together, alone, least=0.01)  # a fresh head's logits are small
    if not difference <= TOLERANCE:  # written so that NaN fails
        raise ModelError(
            f"{name} ({what}) answers a text otherwise in a padded batch than stock transformers alone, by "
            f"{difference:.2g}: it reads padding, or inputs that are not given here; take a model that does not"
        )


def text_rows(kind: BatchKind, tokenizer: Any, longest: int | None, model: nn.Module) -> list[dict[str, list[int]]]:
    """Return a few short texts as a kind's rows: what a model is asked where there are no rows of its own."""
    texts = [(text, _TEXTS[0]) if KINDS[kind].pairs else (text,) for text in _TEXTS]
    most = {} if longest is None else {"truncation": True, "max_length": longest}
    encoded = [cast("Mapping[str, list[int]]", tokenizer(*text, **most)) for text in texts]
    rows = [{**row} for row in encoded if row[INPUT_IDS]]
    if KINDS[kind].decodes:
        start: int = cast(Any, model).config.decoder_start_token_id
        rows = [{**row, DECODER_IDS: [start, *row[INPUT_IDS]][:longest]} for row in rows]
    return rows


@torch.inference_mode()
def answers_to(
    model: nn.Module, kind: BatchKind, rows: Sequence[Mapping[str, list[int]]]
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what a model says of `text_rows` in one padded batch, and of each row alone, as transformers asks it."""
    given, inputs = (INPUT_IDS,), SEGMENTED_TEXT
    if KINDS[kind].pairs and SEGMENTS in rows[0]:
        given = (INPUT_IDS, SEGMENTS)
    elif KINDS[kind].decodes:
        given, inputs = (INPUT_IDS, DECODER_IDS), TEXT_TO_TEXT
    lengths = [len(row[answer_input(row)]) for row in rows]
    batch = Collator.of(model)({input: [row[input] for row in rows] for input in given}, inputs)
    alone = [own_logits(kind, model(**_alone(model, kind, row)), [n])[0] for row, n in zip(rows, lengths, strict=True)]
    return own_logits(kind, model(**batch), lengths), alone


def _alone(model: nn.Module, kind: BatchKind, row: Mapping[str, list[int]]) -> dict[str, Tensor]:
    """Return a row as stock transformers gives it, less what the model does not take.

    Segments that are all 0 say nothing of one text: what is published has none for it
    (`ftlib.kinds.published_tokenizer`).
    """
    inputs = {name: torch.tensor([values]) for name, values in row.items() if takes(model, name)}
    if not KINDS[kind].pairs and SEGMENTS in inputs and not inputs[SEGMENTS].any():
        del inputs[SEGMENTS]
    return inputs


@torch.no_grad()
def check_prompted(model: nn.Module, split: PreparedSplit, collate: Collator) -> None:
    """Ask a model in eval mode about two rows together and each alone; before anything is trained.

    All ranks of a sharded model call this together. Raises ModelError for a model that cannot be prompted, and for one
    whose answer depends on the padding: a decoder's head for whole rows finds the row's last token by its id, and under
    a prompt it is given no ids.
    """
    rows = _two_rows(split.lengths)
    what, method = type(cast(Any, model).get_base_model()).__name__, method_of(model)

    def said(asked: Int[Any, " rows"]) -> list[Tensor]:
        output = model(**split.batch(asked, collate).inputs)
        return own_logits(split.kind, output, split.lengths[asked].tolist())

    try:
        alone = [said(rows[i : i + 1])[0] for i in range(len(rows))]
        together = said(rows)
    except (ValueError, TypeError, IndexError, RuntimeError, AttributeError, NotImplementedError) as error:
        raise ModelError(
            f"tuning: {what} cannot be asked under an adapter of {method}: {first_line(error)}; use another tuning"
        ) from error
    difference = moved_by_padding(together, alone, least=0.01)  # a fresh head's logits are small
    in_half = torch.is_autocast_enabled(collate.device.type)
    if not difference <= (HALF_TOLERANCE if in_half else TOLERANCE):  # written so that NaN fails
        raise ModelError(
            f"tuning: under an adapter of {method} {what} answers a row otherwise in a padded batch than alone, by "
            f"{difference:.2g}: it does not know where the row ends; use prefix_tuning, lora or ia3"
        )


def _two_rows(lengths: Int[Any, " rows"]) -> Int[Any, " two"]:
    order = lengths.argsort(kind="stable")
    return order[[0, -1]] if len(order) > 1 else order
