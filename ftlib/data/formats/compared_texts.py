"""Two texts of which one is better: what a reward model learns from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.cleaning import clean
from ftlib.data.formats.prompt_completion import leading_tokens
from ftlib.data.formats.text import TextFormat, text_of, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_keys import as_number
from ftlib.data.row_targets import Comparison
from ftlib.data.rows import Dropped, Encoded, Example, Values, slice_values


class ComparedTexts(TextFormat):
    """The columns of a better text and of a worse one, maybe answers to a prompt, for a model that scores texts.

    A text is the prompt, the separator and the answer, as the model's tokenizer reads one text, with the end-of-text
    token behind it where the tokenizer puts none: a score is read at the end. Two rows of the same texts are copies;
    where they prefer each another one, both are dropped as contradictory.
    """

    kind: Literal["compared_texts"] = "compared_texts"
    chosen: str
    """The column of the better text."""
    rejected: str
    """The column of the worse one."""
    prompt: str | None = None
    """The column of what both answer; unset: the two texts stand alone."""
    margin: str | None = None
    """The column of a number from 0: by how much the one is better. `objective.margin_scale` learns from it."""
    separator: str = "\n"
    """Stands between prompt and answer."""
    max_tokens: int = Field(default=512, gt=2)
    """Of a prompt with one answer; a longer one loses its beginning."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "compared"
    keeps_lines: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        asked = [column for column in (self.prompt, self.margin) if column is not None]
        return (self.chosen, self.rejected, *asked, *self.slices)

    @override
    def snippet_words(self) -> Mapping[str, str]:
        return {"graded": '"some text"' if self.prompt is None else f'"a prompt" + {self.separator!r} + "an answer"'}

    def joined(self, prompt: str, answer: str) -> str:
        """Return the text of a prompt and its answer, cleaned as rows are."""
        answer = clean(answer, keep_lines=True)
        return answer if self.prompt is None else f"{clean(prompt, keep_lines=True)}{self.separator}{answer}"

    def example(self, values: Values) -> Example | Dropped:
        """Return the two texts of a row, told from others by both, in whatever order; or why it is no pair."""
        texts: list[str] = []
        for column in (self.chosen, self.rejected, *([self.prompt] if self.prompt else [])):
            text = text_of(values, column)
            if isinstance(text, Dropped):
                return text
            if not (cleaned := clean(text, keep_lines=True)).strip():
                return Dropped("empty_text")
            texts.append(cleaned)
        chosen, rejected, prompt = (*texts, "")[:3]
        if chosen == rejected:
            return Dropped("equal_answers")
        margin = 0.0 if self.margin is None else as_number(values.get(self.margin))
        if margin is None or margin < 0:
            return Dropped("odd_margin")
        text = "\n\n".join([*texts[2:], *sorted((chosen, rejected))])
        parts = (self.joined(prompt, chosen), self.joined(prompt, rejected))
        target = Comparison(border=0, margin=margin)
        return Example(text, chosen, slice_values(values, self.slices), parts, target)

    @override
    def asked(self, line: str) -> Example | None:
        """Return what a line of JSON with `answer`, and `prompt` where rows have one, asks; None for a text."""
        try:
            row = json.loads(line) if line.lstrip().startswith("{") else None
        except (ValueError, RecursionError):
            return None
        if not isinstance(row, dict) or not isinstance((values := cast("Values", row)).get("answer"), str):
            return None
        return Example(self.joined(str(values.get("prompt") or ""), str(values["answer"])))

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""
        return len(ended(tokenizer("a")["input_ids"], tokenizer))

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return the tokens of each row's texts, the better one first; its target says where the other begins.

        An example without `parts`, as a user asks it, is one text.
        """
        tokenizer = processor.tokenizer
        texts = [text for example in examples for text in example.parts or (example.text,)]
        if not texts:
            return []
        split = self.special_tokens == "split"
        made: list[list[int]] = tokenizer(texts, verbose=False, split_special_tokens=split)["input_ids"]
        leading = len(leading_tokens(tokenizer))
        whole = iter(ended(ids, tokenizer) for ids in made)
        return [self._encoded(example, [next(whole) for _ in example.parts or (0,)], leading) for example in examples]

    def _encoded(self, example: Example, texts: list[list[int]], leading: int) -> Encoded:
        cut = [self._cut(ids, leading) for ids in texts]
        truncated = any(len(ids) > self.max_tokens for ids in texts)
        if len(cut) == 1:
            return Encoded([text_piece(cut[0])], truncated=truncated)
        if cut[0] == cut[1]:  # as where a tokenizer knows no capitals
            return Encoded([], dropped=Dropped("equal_answers", "the tokenizer makes the same tokens of both"))
        margin = example.target["margin"] if isinstance(example.target, dict) and "margin" in example.target else 0.0
        target = Comparison(border=len(cut[0]), margin=margin)
        return Encoded([text_piece([*cut[0], *cut[1]], target)], truncated=truncated)

    def _cut(self, ids: list[int], leading: int) -> list[int]:
        over = len(ids) - self.max_tokens
        return ids if over <= 0 else [*ids[:leading], *ids[leading + over :]]


def ended(ids: list[int], tokenizer: Tokenizer) -> list[int]:
    """Return a text's tokens with the end-of-text token behind them, if there is one and it does not stand there."""
    end = tokenizer.eos_token_id
    return ids if end is None or ids[-1:] == [end] else [*ids, end]
