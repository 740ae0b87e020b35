"""Reward models: the loss against its formula, the probe against scikit-learn, scores against stock transformers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.compared_texts import ComparedTexts
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.evaluation.forward_pass import predict_split
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import ComparedOutcomes
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.report.calibration import reliability
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_classifier, tiny_comparisons, tiny_lm_tokenizer, tiny_prepared_as, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.training.objectives.reward import BradleyTerry
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.workspace import Workspace

FORMAT = ComparedTexts(chosen="chosen", rejected="rejected", margin="margin", max_tokens=24)
METRICS: TypeAdapter[Any] = TypeAdapter(Metric)


@dataclass
class Made:
    """Pairs, and a model with a head of one output."""

    data: PreparedDataset
    start: Checkpoint
    rows: list[dict[str, Any]]

    def split(self, name: str = "train") -> Any:
        return open_split(split_file(self.data.path, name), ())  # type: ignore[arg-type]

    def job(self, tuning: Any, **settings: Any) -> TrainJob:
        optimizer = AdamW(learning_rate=3e-3, batch_size=8, **settings)
        phase = Phase(
            name="tune", dataset="d", objective=BradleyTerry(), tuning=tuning, optimizer=optimizer, dropout=0.0
        )
        compute = Compute(workers=0, threads=1)
        return TrainJob(start=self.start, data=self.data, phase=phase, precision="fp32", seed=7, compute=compute)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, rows = tmp_path_factory.mktemp("compared"), tiny_comparisons(96)
    splits: Any = {"train": rows[:64], "validation": rows[64:80], "test": rows[80:]}
    data = tiny_prepared_as(folder / "data", FORMAT, splits, Processor.of(tiny_tokenizer()))
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    start = base(BaseJob(model=model, kind="compared", labels=(), seed=1), Workspace(folder))
    return Made(data, start, rows)


class Scores(torch.nn.Module):
    """A model that says what it is told."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)[:, None].requires_grad_()

    def forward(self, **inputs: Any) -> Any:
        return type("Output", (), {"logits": self.scores})


@pytest.mark.parametrize(("scale", "centring"), [(0.0, 0.0), (1.5, 0.0), (0.0, 0.01), (2.0, 0.1)])
def test_the_loss_is_the_papers(scale: float, centring: float) -> None:
    chosen, rejected, margin = np.array([1.0, -2.0, 30.0]), np.array([0.5, 3.0, -30.0]), np.array([0.0, 1.0, 2.5])
    batch = Batch({}, torch.ones(3, dtype=torch.int64), torch.tensor(margin).float())
    model = Scores([score for pair in zip(chosen, rejected, strict=True) for score in pair])
    ours = BradleyTerry(margin_scale=scale, centring=centring).loss(model, batch)
    gap = chosen - rejected - scale * margin
    theirs = np.log1p(np.exp(-gap)) + centring * (chosen + rejected) ** 2
    assert ours.count == 3
    assert float(ours.total.detach()) == pytest.approx(theirs.sum(), rel=1e-6)
    ours.total.backward()
    assert model.scores.grad is not None
    slope, drawn = -1 / (1 + np.exp(gap)), 2 * centring * (chosen + rejected)
    by_hand = np.stack([slope + drawn, drawn - slope], axis=1).reshape(-1, 1)
    np.testing.assert_allclose(model.scores.grad.numpy(), by_hand, rtol=1e-5, atol=1e-7)


def test_a_probe_is_scikit_learns_regression_of_differences(made: Made, tmp_path: Path) -> None:
    """Bradley & Terry on frozen features is a logistic regression of differences, without an intercept."""
    checkpoint = train(made.job(LinearProbe(l2=0.5)), Workspace(tmp_path))
    model = AutoModelForSequenceClassification.from_pretrained(checkpoint.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path / "model")
    rows = made.rows[:64]

    def features(column: str) -> np.ndarray:
        inputs = tokenizer([row[column] for row in rows], padding=True, return_tensors="pt")
        with torch.no_grad():
            return model.bert.pooler(model.bert(**inputs).last_hidden_state).double().numpy()

    gaps = features("chosen") - features("rejected")
    flipped = np.random.default_rng(0).integers(0, 2, len(gaps)) * 2 - 1  # whichever stands first
    fitted = LogisticRegression(C=1 / 0.5, fit_intercept=False, tol=1e-8, max_iter=5000)
    fitted.fit(gaps * flipped[:, None], flipped)
    np.testing.assert_allclose(model.classifier.weight.detach().numpy(), fitted.coef_, atol=2e-3)
    assert checkpoint.facts["final_loss"] == pytest.approx(np.log1p(np.exp(-gaps @ fitted.coef_[0])).mean(), abs=1e-4)
    assert float(model.classifier.bias.detach()) == 0


def test_training_learns_and_evaluation_says_what_stock_says(made: Made, tmp_path: Path) -> None:
    checkpoint = train(made.job(Full(), epochs=6), Workspace(tmp_path))
    stock = AutoModelForSequenceClassification.from_pretrained(checkpoint.path / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path / "model")
    table = predict_split(stock, made.split("test"), (), lambda: tokenizer)
    assert isinstance(table, ComparedOutcomes)
    rows = made.rows[80:]
    for column, ours in (("chosen", table.chosen), ("rejected", table.rejected)):
        inputs = tokenizer([row[column] for row in rows], padding=True, return_tensors="pt")
        theirs = stock(**inputs).logits[:, 0].detach().numpy()
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(table.nll, np.log1p(np.exp(table.rejected - table.chosen)), rtol=1e-9)
    assert table.margin.tolist() == [row["margin"] for row in rows]
    assert METRICS.validate_python({"kind": "pair_accuracy"}).compute(table) > 0.8
    again = parse_outcomes(table.to_parquet())
    assert isinstance(again, ComparedOutcomes)
    assert np.array_equal(again.chosen, table.chosen)
    assert np.array_equal(again.margin, table.margin)


def table_of(chosen: list[float], rejected: list[float]) -> ComparedOutcomes:
    gap = np.array(chosen) - np.array(rejected)
    return ComparedOutcomes(
        row_ids=tuple(map(str, range(len(gap)))), nll=np.log1p(np.exp(-gap)), targets=np.ones(len(gap), np.int64),
        chosen=np.array(chosen), rejected=np.array(rejected), margin=np.zeros(len(gap)),
    )  # fmt: skip


def test_metrics_of_pairs_are_what_the_probability_says() -> None:
    table = table_of([2.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, -1.0])
    p = 1 / (1 + np.exp(-np.array([2.0, -1.0, 0.0, 2.0])))
    values = {kind: METRICS.validate_python({"kind": kind}) for kind in ("pair_accuracy", "brier", "log_loss", "ece")}
    assert values["pair_accuracy"].compute(table) == 0.5  # equal scores are wrong
    assert values["brier"].compute(table) == pytest.approx(((1 - p) ** 2).mean())
    assert values["log_loss"].compute(table) == pytest.approx(-np.log(p).mean())
    confidence, right = np.maximum(p, 1 - p), p > 0.5
    bins = np.ceil(confidence * 15)
    gaps = [abs((right - confidence)[bins == one].sum()) for one in np.unique(bins)]
    assert values["ece"].compute(table) == pytest.approx(sum(gaps) / 4)
    assert reliability(table).held.sum() == 4


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "a  card", "rejected": "a  card ", "margin": 1}, "equal_answers"),
        ({"chosen": "a card", "rejected": None, "margin": 1}, "missing_text"),
        ({"chosen": "a card", "rejected": " ", "margin": 1}, "empty_text"),
        ({"chosen": "a card", "rejected": 3, "margin": 1}, "text_not_a_string"),
        ({"chosen": "a card", "rejected": "b", "margin": -1}, "odd_margin"),
        ({"chosen": "a card", "rejected": "b", "margin": "much"}, "odd_margin"),
    ],
    ids=str,
)
def test_a_row_that_is_no_pair_is_dropped(row: dict[str, Any], reason: str) -> None:
    dropped = FORMAT.example(row)
    assert isinstance(dropped, Dropped)
    assert dropped.reason == reason


def test_both_orders_of_a_pair_are_one_text_with_two_labels() -> None:
    rows = [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "b", "rejected": "a"}]
    one, other = (ComparedTexts(chosen="chosen", rejected="rejected", prompt="prompt").example(row) for row in rows)
    assert isinstance(one, Example)
    assert isinstance(other, Example)
    assert (one.text, one.label) != (other.text, other.label)
    assert one.text == other.text


def decoder(folder: Path, *, pad: str) -> Path:
    """Make a Llama with a head of one output, whose padding is a token of its own, or its end token."""
    tokenizer = tiny_lm_tokenizer()
    if pad == "end":
        tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, num_labels=1,
    )  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pad", ["own", "end"])
def test_a_decoder_reads_the_same_place_in_training_and_scoring(pad: str, tmp_path: Path) -> None:
    """transformers reads at the last token that is no padding: where that is the end token, one before the end."""
    model = AutoModelForSequenceClassification.from_pretrained(decoder(tmp_path / "model", pad=pad)).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    format = ComparedTexts(chosen="chosen", rejected="rejected", prompt="prompt")
    rows = [{"prompt": "the invoice", "chosen": "please ask", "rejected": "a card and a bug"}] * 2
    data = tiny_prepared_as(tmp_path / "data", format, {"train": rows}, Processor.of(tokenizer))
    split = open_split(split_file(data.path, "train"), ())
    batch = split.batch([0, 1], Collator.of(model))
    assert batch.inputs["input_ids"].shape[0] == 4
    ours = model(**batch.inputs).logits[:2, 0].tolist()
    alone: list[float] = []
    for answer in ("please ask", "a card and a bug"):
        asked = format.asked(json.dumps({"prompt": "the invoice", "answer": answer}))
        assert asked is not None
        (piece,) = format.encode([asked], Processor.of(tokenizer))[0].pieces
        assert piece.ids[-1] == tokenizer.eos_token_id
        assert piece.ids[-2] != tokenizer.eos_token_id
        # By hand: the hidden state of the place that is read, through the head.
        states = model.model(input_ids=torch.tensor([piece.ids])).last_hidden_state[0]
        alone.append(float(model.score(states[-1 if pad == "own" else -2]).detach()[0]))
    assert ours == pytest.approx(alone, abs=1e-5)


def test_of_a_longer_text_the_beginning_is_lost() -> None:
    format = ComparedTexts(chosen="chosen", rejected="rejected", prompt="prompt", max_tokens=8)
    tokenizer = tiny_tokenizer()
    example = format.example({"prompt": "the invoice and the card " * 4, "chosen": "ask please", "rejected": "a bug"})
    assert isinstance(example, Example)
    (encoded,) = format.encode([example], Processor.of(tokenizer))
    (piece,) = encoded.pieces
    assert encoded.truncated
    assert isinstance(piece.target, dict)
    border = piece.target["border"]  # type: ignore[typeddict-item]
    chosen, rejected = piece.ids[:border], piece.ids[border:]
    assert (len(chosen), len(rejected)) == (8, 8)
    for ids, answer in ((chosen, "ask please"), (rejected, "a bug")):
        assert ids[0] == tokenizer.cls_token_id
        assert tokenizer.decode(ids, skip_special_tokens=True).endswith(answer)
