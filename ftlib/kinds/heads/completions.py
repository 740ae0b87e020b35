"""What follows a prompt: its likelihood, and what the model writes instead."""

from __future__ import annotations

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Int
from torch import Tensor, nn
from transformers import GenerationConfig
from typing_extensions import override

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.base import Request
from ftlib.kinds.heads.tokens import TokenAnswers, TokenHead
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.kinds.samples import Samples
from ftlib.kinds.sampling import sample
from ftlib.kinds.soft_prompts import in_even_lengths, is_prompted
from ftlib.kinds.targets import Targets


class CompletionHead(TokenHead):
    """Prompts and what follows them: the tokens of the completion are predicted, and written where it is asked for."""

    @override
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> References:
        return References(table["target"])

    @override
    def answers(self, asked: Request) -> CompletionAnswers:
        return CompletionAnswers(asked)


class References(Targets):
    """The completions as text; their tokens are at the rows' ends."""

    def __init__(self, texts: pa.ChunkedArray) -> None:
        self.texts = texts

    @override
    def tensor(
        self, rows: Sequence[int] | Int[np.ndarray, " rows"], lengths: Int[np.ndarray, " rows"]
    ) -> Tensor | None:
        """Return nothing: the loss reads the tokens."""
        return None


class CompletionAnswers(TokenAnswers):
    """Collects the likelihood of every completion, and the texts that the model writes."""

    def __init__(self, asked: Request) -> None:
        super().__init__(asked.split, asked.tokenizer)
        self._asked = asked
        self._written = [""] * len(asked.split)
        self._ended = [False] * len(asked.split)
        self._sampled: list[list[tuple[str, bool]]] = [[] for _ in range(len(asked.split))]

    @override
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        super().add(model, batch, rows)
        if not self._asked.max_new_tokens:
            return
        prompts, beams = self.prompts(batch, rows), self._asked.num_beams
        written = continued(model, prompts, self.tokenizer, self._asked.max_new_tokens, self.ends, num_beams=beams)
        for row, ids in zip(rows, written, strict=True):
            self._written[row] = self.spell(ids)
            self._ended[row] = len(ids) < self._asked.max_new_tokens
        if self._asked.samples:
            self._draw(model, prompts, rows, self._asked.samples)

    def _draw(
        self, model: nn.Module, prompts: Sequence[Tensor], rows: Int[np.ndarray, " rows"], samples: Samples
    ) -> None:
        """Draw answers: what each is follows from the seed, the row's place and its number alone."""
        own = self.tokenizer.eos_token_id
        ends = {*self.ends, *([] if own is None else [own])}
        for number in range(samples.count):
            seeds = [seed_of(samples.seed, int(row), number) for row in rows]
            most, temperature = self._asked.max_new_tokens, samples.temperature
            drawn = sample(model, prompts, seeds=seeds, max_new_tokens=most, temperature=temperature, ends=ends)
            for row, one in zip(rows, drawn, strict=True):
                self._sampled[row].append((self.spell([*one.answer]), one.ended))

    @property
    def ends(self) -> frozenset[int]:
        """Return the tokens that end an answer beside the tokenizer's own end."""
        return frozenset()

    def prompts(self, batch: Batch, rows: Int[np.ndarray, " rows"]) -> list[Tensor]:
        """Return what the model goes on from: each row's tokens before its answer."""
        ids, lengths = batch.inputs[INPUT_IDS], batch.inputs[ATTENTION_MASK].sum(dim=1) - batch.supervised
        return [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]

    def reference(self, row: int) -> str | None:
        """Return a row's own answer; None where it is a prompt alone."""
        assert isinstance(self.split.targets, References)
        return self.split.targets.texts[row].as_py() or None

    @override
    def outcomes(self, common: Mapping[str, Any]) -> CompletionOutcomes:
        assert isinstance(self.split.targets, References)
        asked = self.split.asked
        return CompletionOutcomes(
            **common,
            **self.likelihoods(),
            references=tuple(self.split.targets.texts.to_pylist()),
            predicted=tuple(self._written) if self._asked.max_new_tokens else None,
            prompts=tuple(asked.to_pylist()) if self._asked.max_new_tokens and asked is not None else None,
            ended=tuple(self._ended) if self._asked.max_new_tokens else None,
            sampled=tuple(map(tuple, self._sampled)) if self._asked.samples else None,
        )


def seed_of(seed: int, row: int, number: int) -> int:
    """Return the seed of a row's answer of that number."""
    return int(np.random.SeedSequence([seed, row, number]).generate_state(1, np.uint64)[0])


def continued(
    model: nn.Module,
    prompts: Sequence[Tensor],
    tokenizer: Any,
    max_new_tokens: int,
    ends: Collection[int] = (),
    *,
    num_beams: int = 1,
) -> list[list[int]]:
    """Return the tokens that a model writes after each prompt (ids), up to an end token.

    That is the tokenizer's, or one of `ends`. Written is the most probable token at each place, or, with several
    beams, the most probable text per token that they found.

    A causal model goes on from a prompt, so prompts are padded on the left and masked; transformers counts positions
    from the mask. An encoder-decoder reads it by its encoder, padded on the right, since BART counts positions from the
    left end; its decoder begins with the config's `decoder_start_token_id`. Either way a prompt's answer does not
    depend on what it is batched with, to the rounding of sums.
    """

    def go_on(prompts: Sequence[Tensor]) -> list[list[int]]:
        return _continued(model, prompts, tokenizer, max_new_tokens, ends, num_beams)

    return in_even_lengths(prompts, go_on) if is_prompted(model) else go_on(prompts)


def _continued(
    model: nn.Module,
    prompts: Sequence[Tensor],
    tokenizer: Any,
    max_new_tokens: int,
    ends: Collection[int],
    num_beams: int,
) -> list[list[int]]:
    """Return what follows prompts in one padded batch."""
    own = tokenizer.eos_token_id
    stops = sorted({*ends} if own is None else {own, *ends})
    collate = Collator.of(model, prompts[0].device)
    plain: Any = getattr(model, "get_base_model", lambda: model)()  # peft's adapter layers lie inside it
    decodes: bool = plain.config.is_encoder_decoder
    batch = collate({INPUT_IDS: [prompt.tolist() for prompt in prompts]}, left=not decodes)
    writer: Any = model if is_prompted(model) else plain  # a prompt does not
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=num_beams,
        decoder_start_token_id=plain.config.decoder_start_token_id if decodes else None,
        eos_token_id=stops or None,
        pad_token_id=collate.pad_token_id if own is None else own,
    )
    with _without_own_settings(plain):
        whole: Tensor = writer.generate(**batch, generation_config=settings)
    before = 1 if decodes else batch[INPUT_IDS].shape[1]
    return [_before(stops, new) for new in whole[:, before:].tolist()]


def _before(stops: Sequence[int], ids: list[int]) -> list[int]:
    return ids[: next((position for position, id in enumerate(ids) if id in stops), len(ids))]


@contextmanager
def _without_own_settings(model: Any) -> Generator[None]:
    """Keep a model's generation_config.json out of it: its penalties and sampling would fill in what is left unsaid."""
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own
