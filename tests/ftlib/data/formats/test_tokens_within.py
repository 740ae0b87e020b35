"""Texts within a number of tokens: what a stock tokenizer makes of each alone, and whether it was longer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from ftlib.data.formats.text import tokens_within
from ftlib.testing import tiny_tokenizer

WORD_PIECES: Any = tiny_tokenizer()
WITHOUT_SPECIAL_ONES: Any = PreTrainedTokenizerFast(
    tokenizer_object=WORD_PIECES._tokenizer, unk_token="[UNK]", pad_token="[PAD]"
)
WITHOUT_SPECIAL_ONES.backend_tokenizer.post_processor = None
BYTES_IN_PYTHON: Any = ByT5Tokenizer()
TOKENIZERS = [WORD_PIECES, WITHOUT_SPECIAL_ONES, BYTES_IN_PYTHON]
TEXT = st.text("ab cé[SEP]\n", max_size=30)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["word pieces", "no special ones", "python"])
@given(texts=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), paired=st.booleans(), most=st.integers(4, 24))
@settings(max_examples=60)
def test_each_is_what_the_tokenizer_makes_of_it_alone(
    tokenizer: Any, texts: list[tuple[str, str]], paired: bool, most: int
) -> None:
    columns = [*zip(*texts, strict=True)] if paired else [[first for first, _ in texts]]
    made, cut = tokens_within(tokenizer, columns, most, "split")
    for i, row in enumerate(zip(*columns, strict=True)):
        alone = [[text] for text in row]
        (whole,) = tokenizer(*alone, split_special_tokens=True)["input_ids"]
        (short,) = tokenizer(*alone, split_special_tokens=True, truncation=True, max_length=most)["input_ids"]
        assert (list(made["input_ids"][i]), cut[i]) == (short, len(whole) > most)
        assert cut[i] == (short != whole)
