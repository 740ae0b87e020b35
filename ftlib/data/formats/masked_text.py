"""Text of which some words are hidden."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

from pydantic import Field

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.formats.text import TextFormat, text_of, text_piece
from ftlib.data.inputs import Inputs, Masking, Tokens
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_targets import ASKED, NO_WORD
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Values, slice_values
from ftlib.errors import RecipeError


class MaskedText(TextFormat):
    """A text column, for masked language modelling (Devlin et al. 2018, arXiv 1810.04805).

    Which words are hidden is drawn anew for each row in each epoch; for what is measured once and for all. A text
    longer than `max_tokens` becomes several rows, each with the special tokens of a whole one.
    """

    kind: Literal["masked_text"] = "masked_text"
    text: str
    """The column that holds the text."""
    max_tokens: int = Field(default=256, gt=2)
    """A longer text becomes several rows."""
    rate: float = Field(default=0.15, gt=0.0, lt=1.0)
    """The probability of a word to be hidden; of a row one is at least. Of the tokens of hidden words 80 % are read as
    the mask, 10 % as a token of any sort and 10 % as they are."""
    whole_words: bool = True
    """Whether all tokens of a word are hidden together; if not, each is drawn by itself."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `[SEP]` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "masked"
    keeps_lines: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.text, *self.slices)

    def inputs(self, processor: Processor) -> Inputs:
        """Return the tokens, and how they are hidden.

        Raises RecipeError for a tokenizer that has no token for what is hidden, or does not say what a word is.
        """
        tokenizer: Any = processor.tokenizer
        if tokenizer.mask_token_id is None:
            raise RecipeError(
                "format: 'masked_text' hides words behind the tokenizer's mask token, and the model's tokenizer has "
                "none: a causal language model learns 'plain_text' by 'causal_lm'; or give an encoder"
            )
        if not tokenizer.is_fast:
            raise RecipeError(
                "format: 'masked_text' hides whole words, and the model's tokenizer does not say which tokens are one; "
                "give a model with a tokenizer.json"
            )
        masking = Masking(token=tokenizer.mask_token_id, vocabulary=len(tokenizer), rate=self.rate)
        return (Tokens(masking=masking),)

    def example(self, values: Values) -> Example | Dropped:
        """Return the text of a row, or why it has none."""
        text = text_of(values, self.text)
        if isinstance(text, Dropped):
            return text
        return Example(text, None, slice_values(values, self.slices))

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for one token of a text to be read."""
        return tokenizer.num_special_tokens_to_add() + 1

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return the pieces of every text, each token's word as what they are taught.

        Of an example with `parts`, as a user asks it, what lies between them is hidden, and it is one piece.
        """
        tokenizer: Any = processor.tokenizer
        asked = [bool(example.parts) for example in examples]
        texts = [tokenizer.mask_token.join(one.parts) if one.parts else one.text for one in examples]
        cut = {"truncation": True, "max_length": self.max_tokens, "return_overflowing_tokens": True}
        split = self.special_tokens == "split" and not any(asked)
        encoded = tokenizer(texts, verbose=False, split_special_tokens=split, **cut)
        pieces: list[list[Piece]] = [[] for _ in examples]
        special = {*tokenizer.all_special_ids}
        for i, row in enumerate(cast("list[int]", encoded["overflow_to_sample_mapping"])):
            if asked[row] and pieces[row]:
                continue
            ids = cast("list[int]", encoded["input_ids"][i])
            words = self._words(ids, encoded.word_ids(i), special)
            if asked[row]:
                words = [ASKED if id == tokenizer.mask_token_id else NO_WORD for id in ids]
            if any(word != NO_WORD for word in words):
                hidden = max(1, round(self.rate * sum(word != NO_WORD for word in words)))
                pieces[row].append(text_piece(ids, tuple(words), supervised=hidden))
        return [Encoded(cut, dropped=None if cut else Dropped("no_word_to_hide")) for cut in pieces]

    def _words(self, ids: list[int], words: list[int | None], special: set[int]) -> list[int]:
        numbers = words if self.whole_words else range(len(ids))
        return [
            NO_WORD if word is None or number is None or id in special else number
            for id, word, number in zip(ids, words, numbers, strict=True)
        ]
