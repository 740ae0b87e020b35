"""A text, and the text that is to be made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.base import Prompting
from ftlib.data.formats.prompt_completion import completion_of
from ftlib.data.formats.text import TextFormat, encode_texts, text_of
from ftlib.data.inputs import DECODER_IDS, INPUT_IDS, TEXT_TO_TEXT, Inputs
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values


class TextToText(TextFormat):
    """A source column and a target column, for encoder-decoders (T5, BART, Marian): translation, summaries.

    The encoder reads prefix and source as its tokenizer lays a text out. The decoder begins with the model's
    `decoder_start_token_id` and is taught the target's tokens, an end token last. For causal models, which have no
    decoder apart, `prompt_completion` lays the same columns out.
    """

    kind: Literal["text_to_text"] = "text_to_text"
    source: str
    """The column that holds the text that is read."""
    target: str
    """The column that holds the text that the model is to write."""
    prefix: str = ""
    """What stands before every source and names the task, as T5 has it: `translate English to French: `."""
    max_tokens: int = Field(default=512, gt=1)
    """Of prefix and source together; longer ones are cut, and how many is reported."""
    max_target_tokens: int = Field(default=128, gt=1)
    """Of the target with its end token; a longer one loses its end, and teaches no stop."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `<pad>` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "text_to_text"
    keeps_lines: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.source, self.target, *self.slices)

    @property
    @override
    def prompting(self) -> Prompting:
        return Prompting(column=self.source, separator="", reads="", prefix=self.prefix)

    @override
    def inputs(self, processor: Processor) -> Inputs:
        return TEXT_TO_TEXT

    def example(self, values: Values) -> Example | Dropped:
        """Return a row's source, by which rows are the same, and target, or why it has none."""
        source, target = text_of(values, self.source), completion_of(values, self.target)
        if isinstance(source, Dropped):
            return source
        if isinstance(target, Dropped):
            return target
        return Example(source, slices=slice_values(values, self.slices), target=target)

    @override
    def row_limits(self) -> Mapping[str, int]:
        # Before the target's first token stands the one that the decoder begins with.
        return {"max_tokens": self.max_tokens, "max_target_tokens + 1": self.max_target_tokens + 1}

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a source to be read behind the prefix."""
        return len(tokenizer(f"{self.prefix}a", verbose=False)["input_ids"])

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per row; an example without a target is asked, and teaches nothing.

        Raises ModelError for a model that does not say what its decoder begins with.
        """
        start, tokenizer = processor.decoder_start, processor.tokenizer
        sources = encode_texts(
            [replace(example, text=f"{self.prefix}{example.text}") for example in examples],
            tokenizer,
            self.max_tokens,
            self.special_tokens,
        )
        targets = self._target_ids([example.target for example in examples], tokenizer)
        return [
            self._encoded(example, source, [start, *target])
            for example, source, target in zip(examples, sources, targets, strict=True)
        ]

    def _target_ids(self, targets: Sequence[object], tokenizer: Tokenizer) -> list[list[int]]:
        """Return each target's tokens as the tokenizer lays one out, an end token last; none where there is none."""
        texts = [target for target in targets if isinstance(target, str)]
        if not texts:
            return [[] for _ in targets]
        split, end = self.special_tokens == "split", tokenizer.eos_token_id
        # Marian and mBART spell targets by another vocabulary, or under another language.
        whole: list[list[int]] = tokenizer(text_target=texts, verbose=False, split_special_tokens=split)["input_ids"]
        ended = iter([ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in whole])
        return [next(ended) if isinstance(target, str) else [] for target in targets]

    def _encoded(self, example: Example, source: Encoded, ids: list[int]) -> Encoded:
        cut = ids[: self.max_target_tokens + 1]
        inputs = {INPUT_IDS: source.pieces[0].ids, DECODER_IDS: cut}
        piece = Piece(inputs, example.target, len(cut) - 1)
        return Encoded([piece], truncated=source.truncated or len(cut) < len(ids))
