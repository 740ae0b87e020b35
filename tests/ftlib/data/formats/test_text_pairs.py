"""Two texts a row: ids and segments of the stock tokenizer, and the loss and answers of stock transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

from ftlib.data.assignment import clean_example
from ftlib.data.cleaning import Cleaning
from ftlib.data.dataset import Dataset
from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.multi_label_text import MultiLabelText
from ftlib.data.formats.scored_text import ScoredText
from ftlib.data.inputs import TEXT, Marks
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.data.sources.files import Files
from ftlib.data.splitting import SplitPolicy
from ftlib.errors import DataError
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.testing import tiny_classifier, tiny_prepared_as, tiny_rows, tiny_tokenizer
from ftlib.training.objectives.classification import Classification
from ftlib.training.objectives.regression import Regression

FORMAT = LabeledText(text="premise", pair="hypothesis", label="label", max_tokens=16)
TOKENIZER = tiny_tokenizer()
LONG = "the bug again " * 9


def row(premise: Any, hypothesis: Any, label: object = "yes") -> dict[str, Any]:
    return {"premise": premise, "hypothesis": hypothesis, "label": label}


def example(premise: str, hypothesis: str) -> Example:
    made = FORMAT.example(row(premise, hypothesis))
    assert isinstance(made, Example)
    return made


@pytest.mark.parametrize("pair", [("the bug", "a card"), (LONG, "a card"), ("a card", LONG), (LONG, LONG + LONG)])
def test_ids_and_segments_are_the_stock_tokenizer_s_and_the_longer_text_is_cut_first(pair: tuple[str, str]) -> None:
    (made,) = FORMAT.encode([example(*pair)], Processor.of(TOKENIZER))
    stock = TOKENIZER(*pair, truncation="longest_first", max_length=16)
    assert made.pieces[0].inputs == {name: stock[name] for name in ("input_ids", "token_type_ids")}
    assert made.truncated == (LONG in pair)
    assert {*made.pieces[0].inputs["token_type_ids"]} == {0, 1}
    assert FORMAT.inputs(Processor.of(TOKENIZER)) == (*TEXT, Marks(name="token_type_ids"))
    assert FORMAT.least_tokens(TOKENIZER) == 5


def test_a_tokenizer_without_segments_writes_none() -> None:
    plain: Any = PreTrainedTokenizerFast(tokenizer_object=TOKENIZER._tokenizer, unk_token="[UNK]", pad_token="[PAD]")
    plain.model_input_names = ["input_ids", "attention_mask"]
    (made,) = FORMAT.encode([example("the bug", "a card")], Processor.of(plain))
    assert made.pieces[0].inputs == {"input_ids": TOKENIZER("the bug", "a card")["input_ids"]}
    assert FORMAT.inputs(Processor.of(plain)) == TEXT


def test_both_texts_are_cleaned_and_make_a_row_what_it_is() -> None:
    one = example("the  bug\u0000", " a card\n")
    assert one.parts == ("the bug", "a card")
    assert one.text == example("the bug", "a card").text
    assert len({example(*pair).text for pair in (("a b", "c"), ("a", "b c"), ("c", "a b"))}) == 3


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (row(None, "a"), "missing_text"),
        (row("a", None), "missing_text"),
        (row("a", 3), "text_not_a_string"),
        (row("a", " \n"), "empty_text"),
        (row("", "a"), "empty_text"),
        (row("a", "b", None), "missing_label"),
    ],
)
def test_a_row_without_both_texts_is_dropped(values: dict[str, Any], reason: str) -> None:
    assert FORMAT.example(values) == Dropped(reason)  # pyright: ignore[reportArgumentType]


def test_scores_and_sets_of_labels_have_pairs_too() -> None:
    scored = ScoredText(text="premise", pair="hypothesis", score="label")
    assert scored.columns == ("premise", "hypothesis", "label")
    assert scored.example(row("a", "b", 0.5)) == Example("a | b", "0.5", (), ("a", "b"), 0.5)
    several = MultiLabelText(text="premise", pair="hypothesis", labels="label").example(row("a", "b", ["x", "y"]))
    assert isinstance(several, Example)
    assert (several.parts, several.target) == (("a", "b"), ("x", "y"))


def test_near_duplicates_are_near_in_both_texts(tmp_path: Path) -> None:
    """What cleaning is asked for looks at one text of a row: it has both."""
    dataset = Dataset(
        source=Files(path="x"), format=FORMAT, split=SplitPolicy(), cleaning=Cleaning(near_duplicates=0.8)
    )
    made = clean_example(dataset, row("the invoice of the card", "a refund of the price"))
    assert isinstance(made, Example)
    assert made.text == "the invoice of the card | a refund of the price"


@pytest.mark.parametrize(
    ("format", "labels", "objective"),
    [
        (FORMAT.model_copy(update={"max_tokens": 64}), ("no", "yes"), Classification()),
        (ScoredText(text="premise", pair="hypothesis", score="score"), ("score",), Regression()),
    ],
    ids=["label", "number"],
)
def test_the_loss_is_that_of_stock_transformers_on_pairs(
    tmp_path: Path, format: Any, labels: tuple[str, ...], objective: Any
) -> None:
    """Were segments left out, the embedding of the second text would be the first's."""
    texts = [str(made["text"]) for made in tiny_rows(8, words=5)]
    scores = [0.5, -1.25, 3.0, 2.0]
    rows = [{**row(texts[i], texts[i + 4], ("no", "yes")[i % 2]), "score": scores[i]} for i in range(4)]
    data = tiny_prepared_as(tmp_path / "data", format, {"train": rows}, Processor.of(TOKENIZER))
    folder = tiny_classifier(tmp_path / "model", labels)
    stock = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        table = stock.bert.embeddings.token_type_embeddings.weight
        table += torch.randn(table.shape, generator=torch.Generator().manual_seed(0))
    split = open_split(data.path / "train.arrow", labels if len(labels) > 1 else ())
    ours = objective.loss(stock, split.batch(range(4), Collator.of(stock)))
    inputs = AutoTokenizer.from_pretrained(folder)(
        [one["premise"] for one in rows], [one["hypothesis"] for one in rows], return_tensors="pt", padding=True
    )
    assert inputs["token_type_ids"].any()
    theirs = stock(**inputs, labels=torch.tensor([0, 1, 0, 1] if len(labels) > 1 else scores)).loss
    assert ours.total.item() == pytest.approx(4 * theirs.item(), rel=1e-6)


def test_a_user_s_line_holds_both_columns() -> None:
    asked = FORMAT.asked(json.dumps({"premise": "the bug", "hypothesis": "a  card", "label": "is not read"}))
    assert asked is not None
    assert asked.parts == ("the bug", "a card")
    assert LabeledText(text="text", label="label").asked("the bug") is None
    for line in ("the bug", "[1]", '{"premise": "a"}', '{"premise": "a", "hypothesis": 3}', "{" * 20_000):
        with pytest.raises(DataError, match=r'a pair of texts is a JSON object on a line, {"premise": "\.\.\."'):
            FORMAT.asked(line)
