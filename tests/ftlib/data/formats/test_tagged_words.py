"""Words and tags become tokens and targets as stock transformers aligns them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.formats.tagged_words import TaggedWords, first_tokens
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.errors import ModelError
from ftlib.testing import tiny_tagged_rows, tiny_tokenizer

FORMAT = TaggedWords(words="words", tags="tags", max_tokens=16, slices=("region",))
TOKENIZER = tiny_tokenizer()


def example(words: list[str], tags: list[str]) -> Example:
    found = FORMAT.example({"words": words, "tags": tags})
    assert isinstance(found, Example)
    return found


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tags": ["O"]}, "missing_words"),
        ({"words": [], "tags": []}, "missing_words"),
        ({"words": ["a"]}, "missing_tags"),
        ({"words": "a b", "tags": ["O", "O"]}, "words_not_strings"),
        ({"words": ["a", 3], "tags": ["O", "O"]}, "words_not_strings"),
        ({"words": ["a"], "tags": [0]}, "tags_not_strings"),
        ({"words": ["a", "b"], "tags": ["O"]}, "words_and_tags_differ"),
        ({"words": ["a"], "tags": ["U-PER"]}, "tag_not_iob2"),
    ],
)
def test_every_dropped_row_has_its_reason(values: dict[str, Any], reason: str) -> None:
    dropped = FORMAT.example(values)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


def test_words_are_cleaned_and_the_tags_stay_with_them() -> None:
    found = FORMAT.example({"words": ["  New\n", "\u0007", "York ", "is"], "tags": ["O", "B-LOC", "I-LOC", "O"]})
    assert found == Example("New York is", None, ("(none)",), ("New", "York", "is"), ("O", "B-LOC", "O"))


WORD = st.text(st.sampled_from("abyz019.-'é好😀 \u200d"), min_size=1, max_size=6)
TAG = st.sampled_from(["O", "B-PER", "I-PER", "I-ORG"])


@settings(max_examples=150)
@given(st.lists(st.tuples(WORD, TAG), min_size=1, max_size=14), st.integers(4, 20))
def test_tags_stand_where_stock_transformers_puts_them(pairs: list[tuple[str, str]], max_tokens: int) -> None:
    """A second implementation: `is_split_into_words` and `word_ids`, on the words that the tokenizer reads at all."""
    said = example([word for word, _ in pairs], [tag for _, tag in pairs])
    assert isinstance(said.target, tuple)
    (encoded,) = FORMAT.model_copy(update={"max_tokens": max_tokens}).encode([said], Processor.of(TOKENIZER))
    (piece,) = encoded.pieces
    stock = TOKENIZER(list(said.parts), is_split_into_words=True, truncation=True, max_length=max_tokens)
    whole = TOKENIZER(list(said.parts), is_split_into_words=True)
    assert piece.ids == stock["input_ids"]
    assert encoded.truncated == (len(whole["input_ids"]) > max_tokens)
    words, seen = stock.word_ids(), set()
    firsts = [word is not None and word not in seen and not seen.add(word) for word in words]
    assert isinstance(piece.target, tuple)
    assert [tag is not None for tag in piece.target[: len(piece.ids)]] == firsts
    assert piece.supervised == len(seen)
    readable = {word for word in whole.word_ids() if word is not None}
    taught = [tag for tag in piece.target if tag is not None]
    assert len(taught) == len(readable)
    assert None not in piece.target[len(piece.ids) :]
    if len(readable) == len(said.parts):
        assert taught == list(said.target)


def test_byte_level_tokens_hold_the_blank_before_their_word() -> None:
    """GPT-2's offsets begin at the blank, RoBERTa's after it: both name the word."""
    words = ["New", "York", "is"]
    for offsets in ([(0, 3), (3, 6), (6, 8), (8, 11)], [(0, 3), (4, 6), (6, 8), (9, 11)]):
        assert first_tokens(words, offsets) == [0, 1, 3]
    assert first_tokens(words, [(0, 0), (0, 3), (9, 11), (0, 0)]) == [1, None, 2]


@pytest.mark.parametrize("trim_offsets", [True, False], ids=["as RoBERTa", "as GPT-2"])
def test_a_byte_level_tokenizer_needs_no_prefix_space(trim_offsets: bool) -> None:
    """Stock transformers refuses `is_split_into_words` here; its own ids of the joined words are the reference."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rows = tiny_tagged_rows(30)
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    byte_level.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    byte_level.train_from_iterator([" ".join(row["words"]) for row in rows], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level)
    whole = FORMAT.model_copy(update={"max_tokens": 500})
    for row in [*rows, {"words": ["zoë", "😀😀", "naïve"], "tags": ["B-A", "O", "B-A"]}]:
        (encoded,) = whole.encode([example(row["words"], row["tags"])], Processor.of(tokenizer))
        (piece,) = encoded.pieces
        assert piece.ids == tokenizer(" ".join(row["words"]))["input_ids"]
        assert isinstance(piece.target, tuple)
        firsts = [token for token, tag in enumerate(piece.target) if tag is not None]
        assert [tag for tag in piece.target if tag is not None] == row["tags"]
        ends = [*firsts[1:], len(piece.ids)]
        spelt = [tokenizer.decode(piece.ids[a:b]).strip() for a, b in zip(firsts, ends, strict=True)]
        assert spelt == row["words"]


def test_words_that_are_cut_off_keep_their_tags_behind_the_tokens() -> None:
    rows = tiny_tagged_rows(20, words=12)
    for row, encoded in zip(
        rows, FORMAT.encode([example(row["words"], row["tags"]) for row in rows], Processor.of(TOKENIZER)), strict=True
    ):
        (piece,) = encoded.pieces
        assert isinstance(piece.target, tuple)
        assert len(piece.ids) <= 16
        assert [tag for tag in piece.target if tag is not None] == row["tags"]
        assert encoded.truncated
        assert piece.supervised == sum(tag is not None for tag in piece.target[:16]) < len(row["tags"])


def test_a_tokenizer_that_cannot_align_is_refused() -> None:
    class Slow:
        eos_token_id = None

        def __call__(self, text: Any, **options: Any) -> Any:
            raise AssertionError

    with pytest.raises(ModelError, match=r"Slow cannot say: use a model whose tokenizer has a tokenizer\.json"):
        FORMAT.encode([example(["a"], ["O"])], Processor.of(Slow()))
