"""A prompt and what should follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.cleaning import clean
from ftlib.data.formats.base import Prompting
from ftlib.data.formats.text import TextFormat, text_of, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Values, slice_values


class PromptCompletion(TextFormat):
    """A prompt column and a completion column, for a language model that is to answer.

    A row is the prompt, the separator, the completion and the end-of-text token. The two sides are tokenised apart, so
    that no token spans the border and a prompt has the same tokens whatever follows it, as when the model answers.
    Blanks at the separator's end go with the completion: most tokenizers join them to the word after.
    """

    kind: Literal["prompt_completion"] = "prompt_completion"
    prompt: str
    """The column that holds what is asked."""
    completion: str | None
    """The column that holds what the model is to answer; null: rows are prompts alone, for a policy that learns from
    its own answers, or for what is measured of answers without comparing them to a row's own."""
    prefix: str = ""
    """What stands before every prompt and names the task: `Translate to French: `."""
    separator: str = "\n"
    """Stands between the two."""
    max_tokens: int = Field(default=512, gt=3)
    """Of a longer row, the prompt loses its beginning, but for the prefix; the completion loses its end only if it
    alone is too long. A longer prompt that stands alone is dropped."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `<|im_start|>` or `</s>`, is read as these characters, or as the token: `keep`,
    for texts that a chat template wrote."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    introduced: ClassVar[Mapping[str, object]] = {"prefix": ""}

    yields: ClassVar[BatchKind] = "completions"
    keeps_lines: ClassVar[bool] = True

    @property
    @override
    def prompting(self) -> Prompting:
        reads = self.separator.rstrip(" ")
        return Prompting(column=self.prompt, separator=self.separator, reads=reads, prefix=self.prefix)

    @property
    @override
    def asks_alone(self) -> bool:
        return self.completion is None

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.prompt, *filter(None, [self.completion]), *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return a row's prompt, by which rows are the same, and its completion, or why it has none."""
        prompt = text_of(values, self.prompt)
        answer = completion_of(values, self.completion) if self.completion else ""
        if isinstance(prompt, Dropped):
            return prompt
        if isinstance(answer, Dropped):
            return answer
        return Example(prompt, slices=slice_values(values, self.slices), target=answer)

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of prompt and completion each to be read."""
        return len(leading_tokens(tokenizer)) + len(self._plain_ids([self.prefix], tokenizer)[0]) + 2

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per row; its target is the completion's text, its supervised tokens are the last ones.

        An example without a completion is a prompt, and teaches nothing: a user's, which is read whole (target None),
        or a row's ("").
        """
        tokenizer = processor.tokenizer
        first, end = leading_tokens(tokenizer), tokenizer.eos_token_id
        prompts = self._plain_ids([self.before(example.text) for example in examples], tokenizer)
        (prefix,) = self._plain_ids([self.prefix], tokenizer)
        blanks = self.separator[len(self.separator.rstrip(" ")) :]
        texts = [example.target if isinstance(example.target, str) else "" for example in examples]
        answers = self._plain_ids([f"{blanks}{text}" for text in texts], tokenizer)
        return [
            self._encoded(text, prefix, [first, prompt, answer if end is None else [*answer, end]])
            if text
            else self._asked(example, [*first, *prompt])
            for example, text, prompt, answer in zip(examples, texts, prompts, answers, strict=True)
        ]

    def _asked(self, example: Example, ids: list[int]) -> Encoded:
        """Return a prompt that stands alone."""
        if example.target is not None and len(ids) >= self.max_tokens:
            return Encoded([], dropped=too_long_prompt(len(ids), self.max_tokens))
        return Encoded([text_piece(ids, "", 0)])

    def _plain_ids(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        split = self.special_tokens == "split"
        return tokenizer(list(texts), add_special_tokens=False, verbose=False, split_special_tokens=split)["input_ids"]

    def before(self, prompt: str) -> str:
        """Return what a cleaned prompt becomes before it is tokenised."""
        return self.prefix + prompt + self.separator.rstrip(" ")

    def _encoded(self, text: str, prefix: list[int], parts: list[list[int]]) -> Encoded:
        first, prompt, answer = parts
        room = max(1, self.max_tokens - len(first) - len(answer))
        kept = prefix if len(prompt) > room > len(prefix) else []
        before = first + kept + prompt[len(kept) - room :]
        ids = (before + answer)[: self.max_tokens]
        # Without a token before it, the completion's first one has nothing to be predicted from.
        piece = text_piece(ids, text, len(ids) - max(1, len(before)))
        return Encoded([piece], truncated=len(ids) < sum(map(len, parts)))


def completion_of(values: Values, column: str) -> str | Dropped:
    """Return the cleaned text that a model is to write, or why a row's column holds none."""
    completion = values.get(column)
    if completion is None:
        return Dropped("missing_completion")
    if not isinstance(completion, str):
        return Dropped("completion_not_a_string")
    answer = clean(completion, keep_lines=True)
    return answer if answer.strip() else Dropped("empty_completion")


def too_long_prompt(tokens: int, max_tokens: int) -> Dropped:
    """Return why a row's prompt is not asked."""
    return Dropped("prompt_too_long", f"its prompt has {tokens} tokens, max_tokens: {max_tokens}")


def leading_tokens(tokenizer: Tokenizer) -> list[int]:
    """Return the special tokens that the tokenizer puts before a text; those it puts after one have no place here."""
    whole, plain = tokenizer("a")["input_ids"], tokenizer("a", add_special_tokens=False)["input_ids"]
    return whole[: next(i for i in range(len(whole) + 1) if whole[i : i + len(plain)] == plain)]
