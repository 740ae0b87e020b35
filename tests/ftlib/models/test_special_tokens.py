"""Special tokens that users' texts spell are text: in every format, in training as in what is published."""

from __future__ import annotations

import json
import string
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification
from transformers import T5Tokenizer as Unigram

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format, LabeledText, MultiLabelText, PlainText, PromptCompletion, QuestionAnswer
from ftlib.data.formats.scored_text import ScoredText
from ftlib.data.formats.tagged_words import TaggedWords
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.open_split import open_split
from ftlib.kinds.published_processor import settle_tokenizer
from ftlib.models.special_tokens import Spelling, kept_apart
from ftlib.testing import tiny_classifier, tiny_lm_tokenizer, tiny_rows, tiny_tokenizer
from tests.ftlib.stages.kit import Bench

TEXT = "the [SEP] card[PAD] and a [CLS] [MASK]"
FORMATS: list[tuple[Any, dict[str, Any]]] = [
    (LabeledText(text="text", label="label"), {"text": TEXT, "label": "x"}),
    (MultiLabelText(text="text", labels="labels"), {"text": TEXT, "labels": ["x"]}),
    (ScoredText(text="text", score="score"), {"text": TEXT, "score": 1.0}),
    (TaggedWords(words="words", tags="tags"), {"words": TEXT.split(), "tags": ["O"] * len(TEXT.split())}),
    (
        QuestionAnswer(question="q", context="c", answers="a"),
        {"q": TEXT, "c": TEXT, "a": {"text": "card", "start": 10}},
    ),
    (PlainText(text="text"), {"text": TEXT}),
    (PromptCompletion(prompt="p", completion="c"), {"p": TEXT, "c": TEXT}),
]


@pytest.mark.parametrize(("format", "values"), FORMATS, ids=lambda value: getattr(value, "kind", ""))
def test_no_text_spells_a_special_token(format: Format, values: dict[str, Any]) -> None:
    tokenizer: Any = tiny_lm_tokenizer()
    spelt = {tokenizer.convert_tokens_to_ids(token) for token in ("[SEP]", "[PAD]", "[CLS]", "[MASK]")}
    around = {"question_answer": 3, "prompt_completion": 2}.get(format.kind, 2)  # what the tokenizer or format adds

    def inside(how: str) -> int:
        chosen: Any = format.model_copy(update={"special_tokens": how})
        example = chosen.example(values)
        assert not isinstance(example, Dropped)
        (encoded,) = chosen.encode([example], Processor.of(tokenizer))
        return sum(id in spelt for piece in encoded.pieces for id in piece.ids)

    assert inside("split") == around
    assert inside("keep") > around
    assert type(format)(**format.model_dump(exclude={"special_tokens"})).special_tokens == "split"


def unigram() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("▁a", -3.0)]
    return Unigram(vocab=pieces + [(c, -5.0) for c in string.ascii_lowercase + string.punctuation], extra_ids=2)


@pytest.mark.parametrize("text", ["the </s> a", "the</s>b", "<pad>", "<unk> z", "<extra_id_0> y", "<<pad></s>"])
def test_a_vocabulary_that_holds_the_end_token_does_not_give_it_to_a_text(text: str) -> None:
    """Transformers' split_special_tokens alone does, for SentencePiece's vocabularies."""
    stock, ours = unigram(), kept_apart(unigram())
    read = ours(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    named = set(Spelling(stock).found([text]))
    assert named
    assert not named & set(stock.convert_ids_to_tokens(read))
    spelling = "".join("0" if token == "<unk>" else token for token in stock.convert_ids_to_tokens(read))
    assert spelling.replace("▁", "") == text.replace(" ", "")  # the digit is in no piece
    plain = "a the < /s> b"
    assert ours(plain)["input_ids"] == stock(plain)["input_ids"]
    assert ours(text)["input_ids"] == stock(text)["input_ids"]  # as tokens, where that is asked for


def bench(folder: Path, rows: list[dict[str, Any]], **format: Any) -> Bench:
    columns = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 64, **format}
    return Bench(folder, rows, format=columns, objective="classification", epochs=1, labels=("billing", "bug", "sales"))


def ids_of(data: PreparedDataset) -> list[list[int]]:
    split = open_split(split_file(data.path, "train"), data.labels)
    return sorted(split.tokens(row).tolist() for row in range(len(split)))


def test_what_texts_spell_is_counted_and_the_published_tokenizer_reads_as_training_did(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*tiny_rows(30)]
    for row in rows[:7]:
        row["text"] += " [SEP] x [PAD]"
    made = bench(tmp_path, rows)
    data = made.prepare(rows)
    assert data.special_tokens == {"[SEP]": 7, "[PAD]": 7}
    folder = made.start.path / "model"
    settle_tokenizer(folder, "labeled", "split")
    stock = AutoTokenizer.from_pretrained(folder)
    everything = [stock(str(row["text"]))["input_ids"] for row in rows]
    found = ids_of(data)
    assert found
    assert all(ids in everything for ids in found)
    assert AutoTokenizer.from_pretrained(tmp_path / "tiny")(rows[0]["text"])["input_ids"] not in everything
    kept = made.prepare(rows, special_tokens="keep")
    live = [tiny_tokenizer()(str(row["text"]))["input_ids"] for row in rows]
    assert all(ids in live for ids in ids_of(kept))


def test_max_tokens_without_room_and_tokens_beyond_the_embedding_are_said(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*tiny_rows(30)]
    made = bench(tmp_path, rows)
    with pytest.raises(RecipeError, match=r"format.max_tokens: 2 leaves no room for a token of text .* at least 3"):
        made.prepare(rows, max_tokens=2)
    assert made.prepare(rows, max_tokens=3).splits["train"].longest == 3
    path = tmp_path / "tiny" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["added_tokens"].append({**content["added_tokens"][-1], "id": 9999, "content": "zebra", "special": False})
    path.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"row .* holds the token 'zebra' \(\d+\), and the embedding of .* ends at"):
        bench_again(tmp_path, rows)


def bench_again(folder: Path, rows: list[dict[str, Any]]) -> None:
    from ftlib.models.folder import find_model
    from ftlib.models.reference import ModelRef

    class Known(Bench):
        def __init__(self) -> None:
            from ftlib.workspace import Workspace

            self.work, self.folder = Workspace(folder / "again"), folder
            self.model = find_model(ModelRef(path=str(folder / "tiny")))
            self.format = {"kind": "labeled_text", "text": "text", "label": "label", "max_tokens": 64}

    rows[3]["text"] += " zebra"
    Known().prepare(rows)


def test_a_published_tokenizer_fills_up_as_its_model_says(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=len(tiny_tokenizer()), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, pad_token_id=4, eos_token_id=3,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)
    tiny_lm_tokenizer().save_pretrained(tmp_path)
    before = (tmp_path / "tokenizer.json").read_bytes()
    settle_tokenizer(tmp_path, "labeled", "keep")
    stock: Any = AutoTokenizer.from_pretrained(tmp_path)
    assert stock.pad_token_id == 4
    assert not stock.split_special_tokens
    assert "token_type_ids" not in stock("a")  # Llama has no table of them
    assert (tmp_path / "tokenizer.json").read_bytes() == before
    bert = tiny_classifier(tmp_path / "bert", ("x", "y"))
    settle_tokenizer(bert, "labeled", "split")
    assert "token_type_ids" in AutoTokenizer.from_pretrained(bert)("a")
    assert BertForSequenceClassification.from_pretrained(bert).config.pad_token_id == 0
    said = (bert / "tokenizer_config.json").read_bytes()
    settle_tokenizer(bert, "labeled", "split")
    assert (bert / "tokenizer_config.json").read_bytes() == said
