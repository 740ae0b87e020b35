"""What a causal model writes, drawn from its own distribution: prefill, key-value cache, a seed for every row.

transformers' `generate` draws from torch's global generator: what a row draws would depend on what it is batched with.
Here each row has random numbers of its own (`numpy`'s PCG64 of its seed), one a token, so that they depend on neither
the batch, nor the micro-batches, nor the workers. The token drawn is the first whose cumulative probability is above
the number: a model whose logits are rounded otherwise draws another only where that falls between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS, POSITIONS
from ftlib.errors import ModelError
from ftlib.kinds.collate import Collator
from ftlib.kinds.drawn_answers import drawn
from ftlib.kinds.packed_attention import plain_model
from ftlib.kinds.soft_prompts import is_prompted


@dataclass(frozen=True)
class Sample:
    """What was written behind one prompt."""

    tokens: tuple[int, ...]
    """The end token is the last, where it ended."""
    log_probs: tuple[float, ...]
    """Of each token, in nats, at the temperature that it was drawn at; of the most probable ones, at 1."""
    ended: bool
    """False where it was cut off: it is as long as it may be, and not at its end."""

    @property
    def answer(self) -> tuple[int, ...]:
        """Return the tokens without the end."""
        return self.tokens[:-1] if self.ended else self.tokens


@runtime_checkable
class Sampler(Protocol):
    """Whatever writes: this process's model (`ModelSampler`), or another program that has its weights."""

    def __call__(
        self,
        prompts: Sequence[Int[Tensor, " tokens"]],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        ends: Collection[int],
    ) -> list[Sample]:
        """Return a sample for each prompt, in their order; see `sample`."""
        ...


def _any_left(left: bool) -> bool:
    return left


@torch.no_grad()
def sample(
    model: nn.Module,
    prompts: Sequence[Int[Tensor, " tokens"]],
    *,
    seeds: Sequence[int],
    max_new_tokens: int,
    temperature: float = 1.0,
    ends: Collection[int],
    goes_on: Callable[[bool], bool] = _any_left,
) -> list[Sample]:
    """Return what a causal model in eval mode writes after each prompt: up to one of `ends`, or `max_new_tokens`.

    Drawn is by softmax(logits / `temperature`), with the row's own seed; at 0 it is the most probable token at each
    place. All prompts are one batch, padded on the left, with positions that begin at each prompt's own start; prompts
    with the same tokens may come several times. An adapter of LoRA's kind answers as it lies over its base.

    `goes_on` is told whether a row of this batch is unfinished, and says whether any rank's is: a sharded model's ranks
    must call it equally often.

    Raises ModelError for a model that cannot go on from a text here (an encoder-decoder, one under a soft prompt), and
    for prompts that are empty, or leave too few of the model's positions.
    """
    if len(seeds) != len(prompts):
        raise ValueError(f"{len(prompts)} prompts and {len(seeds)} seeds; give a seed for each")
    if not prompts or max_new_tokens < 1:
        return [Sample((), (), ended=False) for _ in prompts]
    plain, collate = plain_model(model), Collator.of(model, prompts[0].device)
    _check(model, plain, collate, prompts, max_new_tokens)
    at = _uniforms(seeds, max_new_tokens, collate.device) if temperature else None
    batch = collate({INPUT_IDS: [prompt.tolist() for prompt in prompts]}, left=True)
    ids, mask = batch[INPUT_IDS], batch[ATTENTION_MASK]
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    # Of a prompt's logits only the last are needed, and all would be most of the memory.
    few: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in collate.arguments else {}
    counts, stops = POSITIONS in collate.arguments, torch.tensor(sorted(ends), device=collate.device)
    left = torch.ones(len(prompts), dtype=torch.bool, device=collate.device)
    tokens, log_probs, cache = list[Tensor](), list[Tensor](), None
    for place in range(max_new_tokens):
        placed = {POSITIONS: positions} if counts else {}
        given = {INPUT_IDS: ids, ATTENTION_MASK: mask, **placed, "past_key_values": cache, "use_cache": True, **few}
        said: Any = model(**given)
        logits: Float[Tensor, "rows words"] = said.logits[:, -1].float()
        cache = said.past_key_values
        chosen, log_prob = _choose(logits, temperature, None if at is None else at[:, place])
        tokens.append(chosen)
        log_probs.append(log_prob)
        left = left & ~torch.isin(chosen, stops)
        if not goes_on(bool(left.any())):
            break
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones((len(prompts), 1))], dim=1)
    written, terms = torch.stack(tokens, dim=1).tolist(), torch.stack(log_probs, dim=1).tolist()
    return [_sample(row, of_row, frozenset(ends)) for row, of_row in zip(written, terms, strict=True)]


@dataclass(frozen=True)
class ModelSampler:
    """This process's model as a `Sampler`: see `sample`."""

    # No functools.partial: pyright takes it for any protocol, whatever that is called with.
    model: nn.Module
    goes_on: Callable[[bool], bool] = _any_left

    def __call__(
        self,
        prompts: Sequence[Int[Tensor, " tokens"]],
        *,
        seeds: Sequence[int],
        max_new_tokens: int,
        temperature: float = 1.0,
        ends: Collection[int],
    ) -> list[Sample]:
        """Return a sample for each prompt, in their order. Raises ModelError as `sample` does."""
        return sample(
            self.model,
            prompts,
            seeds=seeds,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            ends=ends,
            goes_on=self.goes_on,
        )


def _check(model: nn.Module, plain: Any, collate: Collator, prompts: Sequence[Tensor], max_new_tokens: int) -> None:
    """Raise ModelError for what would be written wrongly, or not at all."""
    what = type(plain).__name__
    if plain.config.is_encoder_decoder or not plain.can_generate():
        raise ModelError(f"{what} is no causal language model, and samples go on from a prompt; choose one that is")
    if is_prompted(model):
        raise ModelError(
            "samples are drawn from no model under a soft prompt; choose full, lora, ia3 or another tuning"
        )
    lengths = [len(prompt) for prompt in prompts]
    if not min(lengths):
        raise ModelError("a prompt has no token to go on from; give it one, or leave the row out")
    if collate.positions is not None and max(lengths) + max_new_tokens > collate.positions:
        raise ModelError(
            f"a prompt of {max(lengths)} tokens and {max_new_tokens} new ones are more than the {collate.positions} "
            f"positions of {what}; lower max_new_tokens, or leave longer prompts out"
        )


def _uniforms(seeds: Sequence[int], count: int, device: torch.device) -> Float[Tensor, "rows places"]:
    """Return each row's numbers between 0 and 1, in float64; the first are the same, however many are asked for."""
    numbers = np.stack([np.random.default_rng(seed).random(count) for seed in seeds])
    return torch.from_numpy(numbers).to(device)


def _choose(
    logits: Float[Tensor, "rows words"], temperature: float, at: Float[Tensor, " rows"] | None
) -> tuple[Int[Tensor, " rows"], Float[Tensor, " rows"]]:
    """Return a token for each row, and its log-probability."""
    scaled = logits if at is None else logits / temperature
    chosen = logits.argmax(dim=-1) if at is None else drawn(scaled, at)
    return chosen, scaled.log_softmax(dim=-1).gather(1, chosen[:, None])[:, 0]


def _sample(tokens: Sequence[int], log_probs: Sequence[float], ends: frozenset[int]) -> Sample:
    """Cut a row behind its end: the other rows went on, and it with them."""
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    count = len(tokens) if end is None else end + 1
    return Sample(tuple(tokens[:count]), tuple(log_probs[:count]), ended=end is not None)
