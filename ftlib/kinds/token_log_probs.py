"""What a language model says of the tokens it is to predict: the one place where its logits are read.

Logits are rows x positions x vocabulary, and most of a batch's memory: 8 rows of 4,096 tokens and 150,000 words are
20 GB in float32, and the loss holds them three times. Up to `WHOLE` bytes they are computed as one tensor, with the
bits that torch's own cross-entropy gives them. Above, the model is run up to its last layer, and that layer is applied
to the supervised positions alone, `PART` bytes of logits at a time, and again in the backward pass instead of keeping
them.

That is a chunked linear cross-entropy of our own, and torch's (`F.linear_cross_entropy`, 2.13) is not used: it gives
bf16 models their loss in bf16, off by 4e-2 where this is by 1e-6, reads a weight where an adapter of the last layer
adds to it, and its `reduction="none"`, which objectives of whole rows need, is the slowest. docs/train-reference.md has
the figures.

The trap: not every family's logits are that layer's product. Gemma caps them (`final_logit_softcapping`), Cohere and
Granite scale them (`logit_scale`, `logits_scaling`), and a config does not say which of its numbers do so. A copy of
the model without memory is asked; where its logits are not the layer's very output, they are computed whole whatever
they take, by the model's own code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss
from torch.utils.checkpoint import checkpoint

from ftlib.data.inputs import DECODER_IDS, answer_input
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.packed_attention import attends_in_packs, borders_of, plain_model

WHOLE = 2 << 30
"""Bytes of a batch's logits in float32 up to which they are computed as one tensor: 2,048 tokens x 262,144 words, which
is the most that is ever measured at a time."""
PART = 64 << 20
"""Bytes of logits in float32 that are computed at a time where the whole would be too many."""

Term: TypeAlias = Callable[..., Float[Tensor, " tokens"]]
"""See `token_terms`."""


def token_log_probs(model: Any, batch: Batch, *, measured: bool = False) -> Float[Tensor, "rows positions"]:
    """Return the log-probability of each supervised token, in nats and float32, at the position that predicts it.

    Positions are a row's but the last, as in `next_tokens`; 0 where nothing is supervised. Gradients reach the model.
    A row's sum is log p(supervised tokens | those before), at temperature 1.

    `measured` adds over the words as evaluations have always done, along an inner dimension: torch rounds that
    otherwise, by about 1e-6, and what was measured before is to be measured again to the bit.
    """
    targets = next_tokens(batch)
    answer = _ask(model, batch)
    if answer.layer is None:
        # What is not supervised is ignored and not multiplied away: a NaN on a padded position must not reach the sum.
        logits = answer.states[:, :-1].float()
        if measured:
            return -cross_entropy(logits.transpose(1, 2), targets, reduction="none", ignore_index=UNTAUGHT)
        flat = cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none", ignore_index=UNTAUGHT)
        return -flat.view_as(targets)
    return _terms([answer], targets, batch.terms, lambda words, logits: -cross_entropy(logits, words, reduction="none"))


def token_terms(
    models: Sequence[Any], batch: Batch, term: Term, *of_tokens: Shaped[Tensor, " tokens"]
) -> Float[Tensor, "rows positions"]:
    """Return a number for each supervised token, at the position that predicts it; 0 where nothing is supervised.

    It is what `term` makes of the logits of all models there, which read the same rows and have the same words:
    `term(words, *of_tokens, *logits)` with the tokens, more numbers of each (one for each supervised token, row by
    row), and each model's tokens x words in float32. Gradients reach the models that have any.

    Where a model's logits would be too many, `term` sees a part of the tokens at a time, and again in the backward
    pass: what it draws at random it must draw from `of_tokens`.
    """
    return _terms([_ask(model, batch) for model in models], next_tokens(batch), batch.terms, term, *of_tokens)


def _terms(
    answers: Sequence[_Said], targets: Int[Tensor, "rows positions"], terms: int | None, term: Term, *of_tokens: Tensor
) -> Float[Tensor, "rows positions"]:
    asked = targets != UNTAUGHT
    where = _places(asked, terms)
    given = 1 + len(of_tokens)

    def of_part(*part: Tensor) -> Tensor:
        states = zip(answers, part[given:], strict=True)
        logits = [(of if answer.layer is None else answer.layer(of)).float() for answer, of in states]
        return term(*part[:given], *logits)

    columns = [targets.flatten()[where], *of_tokens, *(one.states[:, :-1].flatten(0, 1)[where] for one in answers)]
    at_once = min((one.positions for one in answers if one.layer is not None), default=max(1, len(columns[0])))
    in_parts = any(one.layer is not None for one in answers) and torch.is_grad_enabled()
    numbers = [
        cast(Tensor, checkpoint(of_part, *part, use_reentrant=False)) if in_parts else of_part(*part)
        for part in zip(*(of.split(at_once) for of in columns), strict=True)
    ]  # of no token, an empty one
    return torch.zeros(targets.shape, device=targets.device).masked_scatter(asked, torch.cat(numbers))


def nll_sum(log_probs: Float[Tensor, "rows positions"], batch: Batch) -> Float[Tensor, ""]:
    """Return the summed negative log-likelihood of `token_log_probs`, with the bits of torch's `cross_entropy`.

    That adds up its terms in an order of its own: so does this, since it is the same kernel.
    """
    untaught = (next_tokens(batch) == UNTAUGHT).flatten()
    return nll_loss(log_probs.flatten()[:, None], untaught * UNTAUGHT, reduction="sum", ignore_index=UNTAUGHT)


def token_logits(model: Any, batch: Batch, positions: int) -> Iterator[Float[Tensor, "tokens words"]]:
    """Yield the logits of the supervised positions, row by row, `positions` of them at a time; without gradients.

    For whole distributions: a divergence, a teacher's answers.
    """
    asked = next_tokens(batch) != UNTAUGHT
    answer = _ask(model, batch)
    for states in answer.states[:, :-1][asked].split(positions):
        if len(states):
            yield states if answer.layer is None else answer.layer(states)


def _places(asked: Bool[Tensor, "rows positions"], terms: int | None) -> Int[Tensor, " tokens"]:
    """Return the places that are asked for. How many they are is on the device, unless the batch knows it."""
    flat = asked.flatten()
    return flat.nonzero().flatten() if terms is None else torch.nonzero_static(flat, size=terms).flatten()


@dataclass(frozen=True)
class _Said:
    states: Float[Tensor, "rows positions width"]
    """What enters the last layer; without one, the logits."""
    layer: nn.Module | None = None
    """The last layer, to be applied to parts."""
    positions: int = 0
    """How many at a time."""


def _ask(model: Any, batch: Batch) -> _Said:
    """Run the model once, to its last layer where its logits would be too many.

    Always through the model's own `forward`, which is where DDP and FSDP2 gather and reduce; and never twice, so that
    ranks with larger and with smaller batches call each other equally often.
    """
    plain, inputs = plain_model(model), batch.inputs
    if batch.borders is not None and attends_in_packs(plain):
        inputs = {**inputs, **borders_of(batch)}
    layer: nn.Module | None = getattr(plain, "get_output_embeddings", lambda: None)()
    weight: Tensor | None = getattr(layer, "weight", None)
    words = 0 if weight is None else weight.shape[0]
    if layer is None or batch.inputs[answer_input(batch.inputs)].numel() * words * 4 <= WHOLE or not _is_last(plain):
        return _Said(model(**inputs, use_cache=False).logits)
    with _handing_on(layer):
        states = model(**inputs, use_cache=False).logits
    return _Said(states, layer, max(1, PART // (4 * words)))


@contextlib.contextmanager
def _handing_on(layer: nn.Module) -> Generator[None]:
    """Let a layer hand on what enters it."""
    before = layer.forward
    layer.forward = Tensor.clone  # FSDP2 has hooks on what a model returns, and warns of views
    try:
        yield
    finally:
        layer.forward = before


_LAST: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def _is_last(plain: Any) -> bool:
    """Say whether the model's logits are its last layer's very output; asked once a model, on torch's meta device."""
    if plain not in _LAST:
        _LAST[plain] = _hands_out(plain)
    return _LAST[plain]


def _hands_out(plain: Any) -> bool:
    """Ask a copy without memory, whose body is left out."""
    made: list[Tensor] = []
    try:
        with torch.device("meta"), torch.no_grad():
            copy: Any = _class_of(plain)(plain.config).eval()
            layer = copy.get_output_embeddings()
            states = torch.zeros((1, 2, layer.weight.shape[1]))
            given = {"input_ids": torch.zeros((1, 2), dtype=torch.long)}
            for body in _bodies(copy):  # masks ask for values, and here are none
                body.forward = lambda *_, **__: _Body(states)
            if copy.config.is_encoder_decoder:
                given[DECODER_IDS] = given["input_ids"]
            layer.register_forward_hook(lambda _, __, out: made.append(out))
            logits = copy(**given, use_cache=False).logits
    except Exception:  # a model that cannot be asked without memory: its own code is right in any case
        return False
    return len(made) == 1 and logits is made[0]


def _bodies(copy: Any) -> list[nn.Module]:
    """Return what a model asks before its last layer; T5 with that layer has encoder and decoder as its own parts."""
    return [copy.get_encoder(), copy.get_decoder()] if copy.base_model is copy else [copy.base_model]


class _Body:
    """What a body returns, whichever of transformers' classes it would be."""

    def __init__(self, states: Tensor) -> None:
        self.last_hidden_state = states

    def __getattr__(self, _: str) -> None:
        return None

    def __getitem__(self, place: Any) -> Any:
        return (self.last_hidden_state,)[place]


def _class_of(plain: nn.Module) -> Any:
    """Return the model's own class; FSDP2 puts one of its own before it."""
    return next(base for base in type(plain).__mro__ if not base.__name__.startswith("FSDP"))
