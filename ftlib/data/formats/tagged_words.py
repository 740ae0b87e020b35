"""Words with a tag each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from typing import ClassVar, Literal, cast

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.cleaning import clean
from ftlib.data.formats.text import TextFormat, text_piece
from ftlib.data.identity import visible
from ftlib.data.iob2 import is_tag, rewritten
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_reasons import DropReason
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Value, Values, slice_values
from ftlib.errors import ModelError

Offsets = Sequence[tuple[int, int]]


class TaggedWords(TextFormat):
    """A column of words and one of their IOB2 tags, for token classification.

    The words are tokenised as the text that they make with blanks between them, which is the text a user of the model
    will give it. A word's tag is taught to its first token; the others teach nothing.
    """

    kind: Literal["tagged_words"] = "tagged_words"
    words: str
    """The column that holds a row's list of words."""
    tags: str
    """`O`, or `B-` or `I-` with a type: B-PER, I-PER."""
    max_tokens: int = Field(default=256, gt=1)
    """Words beyond it are not read: nothing is learnt from them, and in an evaluation they count as predicted `O`."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "tagged"
    keeps_lines: ClassVar[bool] = False
    names_labels: ClassVar[bool] = True

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.words, self.tags, *self.slices)

    def example(self, values: Values) -> Example | Dropped:
        """Return a row's words with their tags, or why it has none. A word of white space alone goes with its tag."""
        words = _texts(values.get(self.words), "missing_words", "words_not_strings")
        tags = _texts(values.get(self.tags), "missing_tags", "tags_not_strings")
        if isinstance(words, Dropped):
            return words
        if isinstance(tags, Dropped):
            return tags
        if len(words) != len(tags):
            return Dropped("words_and_tags_differ")
        tags = [visible(tag) for tag in tags]
        if not all(map(is_tag, tags)):
            return Dropped("tag_not_iob2")
        cleaned = [clean(word) for word in words]
        target = rewritten(tags, (position for position, word in enumerate(cleaned) if not word))
        parts = tuple(filter(None, cleaned))
        return Example(" ".join(parts), None, slice_values(values, self.slices), parts, target)

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""
        return tokenizer.num_special_tokens_to_add() + 1

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per row: a tag or None for every token, and then the tags of the words that were cut off.

        Raises ModelError for a tokenizer that cannot say where its tokens stand.
        """
        tokenizer = processor.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(
                f"format 'tagged_words' must know which token begins which word, and {type(tokenizer).__name__} cannot "
                "say: use a model whose tokenizer has a tokenizer.json (a fast tokenizer)"
            )
        split = self.special_tokens == "split"
        whole = _encoded([example.parts for example in examples], tokenizer, split=split)
        read = [self._readable(example, firsts) for example, (_, firsts) in zip(examples, whole, strict=True)]
        long = [i for i, (ids, _) in enumerate(whole) if len(ids) > self.max_tokens]
        again = _encoded([read[i].parts for i in long], tokenizer, self.max_tokens, split=split)
        cut = dict(zip(long, again, strict=True))
        return [
            Encoded([_piece(example, *cut.get(i, (ids, [first for first in firsts if first is not None])))], i in cut)
            for i, (example, (ids, firsts)) in enumerate(zip(read, whole, strict=True))
        ]

    @staticmethod
    def _readable(example: Example, firsts: Sequence[int | None]) -> Example:
        """Return the example without the words of which the tokenizer reads nothing: a joiner, a variation mark."""
        unread = [position for position, first in enumerate(firsts) if first is None]
        if not unread:
            return example
        parts = tuple(word for word, first in zip(example.parts, firsts, strict=True) if first is not None)
        return replace(example, parts=parts, target=rewritten(_tags(example), unread))


def _texts(value: Value, missing: DropReason, odd: DropReason) -> list[str] | Dropped:
    if value is None or value == []:
        return Dropped(missing)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return Dropped(odd)
    return cast("list[str]", value)


def _tags(example: Example) -> tuple[str, ...]:
    return cast("tuple[str, ...]", example.target)


def _encoded(
    rows: Sequence[Sequence[str]], tokenizer: Tokenizer, max_tokens: int | None = None, *, split: bool
) -> list[tuple[list[int], list[int | None]]]:
    """Return every row's ids, special tokens included, and each word's first token, None for a word without one."""
    if not rows:
        return []
    encoding = tokenizer(
        [" ".join(words) for words in rows],
        truncation=max_tokens is not None,
        max_length=max_tokens,
        return_offsets_mapping=True,
        verbose=False,
        split_special_tokens=split,
    )
    encoded = zip(rows, encoding["input_ids"], encoding["offset_mapping"], strict=True)
    return [(ids, first_tokens(words, offsets)) for words, ids, offsets in encoded]


def first_tokens(words: Sequence[str], offsets: Offsets) -> list[int | None]:
    """Return each word's first token; `offsets` are the tokens' characters in the words joined by blanks."""
    starts = list(accumulate((len(word) + 1 for word in words), initial=0))[: len(words)]
    firsts: list[int | None] = [None] * len(words)
    for token, (first, end) in enumerate(offsets):
        if first == end:
            continue  # a special token
        # By its last character: the first may be the blank before the word, which byte-level tokenizers read with it.
        word = bisect_right(starts, end - 1) - 1
        if firsts[word] is None and end - 1 < starts[word] + len(words[word]):
            firsts[word] = token
    return firsts


def _piece(example: Example, ids: list[int], firsts: Sequence[int | None]) -> Piece:
    """Return a row's piece; of the words, those without a first token are the ones that were cut off, at the end."""
    by_token: list[str | None] = [None] * len(ids)
    tags = _tags(example)
    for tag, first in zip(tags, firsts, strict=True):
        if first is not None:
            by_token[first] = tag
    beyond = [tag for tag, first in zip(tags, firsts, strict=True) if first is None]
    return text_piece(ids, (*by_token, *beyond), supervised=len(tags) - len(beyond))
