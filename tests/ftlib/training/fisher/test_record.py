"""The Fisher information: each row's own gradient, of labels the model draws, by stock torch and by closed forms."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from ftlib.config import BatchKind
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.masked_text import MaskedText
from ftlib.data.formats.text_to_text import TextToText
from ftlib.errors import RecipeError
from ftlib.kinds import token_log_probs
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.drawn_answers import drawn, drawn_log_probs
from ftlib.kinds.heads.base import Head
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load_processor
from ftlib.kinds.open_split import open_split
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.fisher import FisherJob, fisher
from ftlib.testing import (
    tiny_checkpoint,
    tiny_classifier,
    tiny_prepared,
    tiny_prepared_as,
    tiny_rows,
    tiny_text_to_text,
)
from ftlib.training.compute import Compute
from ftlib.training.loops.phase_loop import hash_seed
from ftlib.workspace import Workspace

SEED = 3


def job(start: Checkpoint, *data: PreparedDataset, rows: int = 1000) -> FisherJob:
    names = tuple("abc"[: len(data)])
    compute = Compute(workers=0, threads=1)
    return FisherJob(start=start, data=data, names=names, rows=rows, seed=SEED, compute=compute)


def plain_fisher(start: Checkpoint, data: PreparedDataset) -> dict[str, torch.Tensor]:
    """Draw and differentiate row by row with stock transformers; for one label a row, or all tokens but the first."""
    labeled = bool(start.labels)
    auto: Any = AutoModelForSequenceClassification if labeled else AutoModelForCausalLM
    model = auto.from_pretrained(start.folder).eval()
    split = open_split(data.path / "train.arrow", start.labels)
    collate = Collator.of(model)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in range(len(split)):
        batch = split.batch(np.array([row]), collate)
        logits = model(**batch.inputs).logits
        logits = logits if labeled else logits[0, :-1]
        at = np.random.default_rng(hash_seed(SEED, row, 0)).random(len(logits))
        shares = np.cumsum(logits.detach().double().softmax(-1).numpy(), axis=-1)
        says = [int(np.searchsorted(of, u, side="right")) for of, u in zip(shares, at, strict=True)]
        model.zero_grad()
        cross_entropy(logits, torch.tensor(says), reduction="sum").backward()
        for name, p in model.named_parameters():
            total[name] += p.grad.square() / len(split)
    return total


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PreparedDataset]:
    folder = tmp_path_factory.mktemp("labeled")
    return tiny_checkpoint(folder / "start"), tiny_prepared(folder / "data", {"train": tiny_rows(12)})


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, PreparedDataset]:
    folder = tmp_path_factory.mktemp("written")
    rows = [{"text": row["text"]} for row in tiny_rows(6)]
    return tiny_checkpoint(folder / "start", ()), tiny_prepared(folder / "data", {"train": rows}, kind="tokens")


@pytest.mark.parametrize("kind", ["labeled", "tokens"])
def test_it_is_the_mean_square_of_each_rows_gradient(
    kind: BatchKind, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    start, data = request.getfixturevalue("labeled" if kind == "labeled" else "written")
    found = fisher(job(start, data), Workspace(tmp_path))
    ours, theirs = load_file(found.file), plain_fisher(start, data)
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(ours[name], expected, rtol=2e-3, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert found.trace == pytest.approx(sum(float(of.double().sum()) for of in theirs.values()), rel=1e-3)
    assert (found.rows, found.weights) == (data.splits["train"].rows, start.weights)


@pytest.mark.parametrize("kind", ["masked", "text_to_text"])
def test_of_hidden_words_and_of_what_a_decoder_writes_it_is_that_of_their_own_distributions(
    kind: BatchKind, tmp_path: Path
) -> None:
    """Stock transformers' logits at the hidden tokens, or for every token of the target, and the same drawn words."""
    rows: Any = tiny_rows(4)
    if kind == "masked":
        folder, format, auto = tiny_classifier(tmp_path / "model"), MaskedText(text="text"), AutoModelForMaskedLM
    else:
        folder = tiny_text_to_text(tmp_path / "model")
        format, auto = TextToText(source="text", target="label"), AutoModelForSeq2SeqLM
    data = tiny_prepared_as(tmp_path / "data", format, {"train": rows}, load_processor(folder))
    model: Any = auto.from_pretrained(folder).eval()
    split = open_split(data.path / "train.arrow", ())
    batch = split.batch(np.arange(len(split)), Collator.of(model))
    said = model(**batch.inputs).logits
    if kind == "masked":
        logits = said[batch.targets != UNTAUGHT]
    else:
        lengths = batch.inputs["decoder_attention_mask"].sum(1).tolist()
        logits = torch.cat([row[: length - 1] for row, length in zip(said, lengths, strict=True)])
    at = np.random.default_rng(5).random(len(logits))
    shares = np.cumsum(logits.detach().double().softmax(-1).numpy(), axis=-1)
    words = torch.tensor([int(np.searchsorted(of, u, side="right")) for of, u in zip(shares, at, strict=True)])
    ours = KINDS[kind].head().drawn_log_prob(model, batch, np.random.default_rng(5))
    assert ours.item() == pytest.approx(-cross_entropy(logits, words, reduction="sum").item(), rel=1e-5)
    assert ours.requires_grad


def test_logits_in_parts_give_the_same(
    written: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = fisher(job(*written), Workspace(tmp_path / "whole"))
    monkeypatch.setattr(token_log_probs, "WHOLE", 0)
    monkeypatch.setattr(token_log_probs, "PART", 5 * 4 * 250)
    parts = load_file(fisher(job(*written), Workspace(tmp_path / "parts")).file)
    for name, expected in load_file(whole.file).items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-3, atol=1e-9)


def test_of_a_logistic_regression_it_is_the_sum_of_x2_p_1_minus_p() -> None:
    """The gradient of log p(y | x) by the weight is (y - p) x; its square is x^2 p (1 - p) on average over y."""
    random = np.random.default_rng(0)
    x, weight = random.normal(size=40_000), 0.7
    p = 1 / (1 + np.exp(-weight * x))
    logits = torch.from_numpy(np.stack([np.zeros_like(x), weight * x], axis=1))
    y = drawn(logits, torch.from_numpy(random.random(len(x)))).numpy()
    assert np.mean(((y - p) * x) ** 2) == pytest.approx(np.mean(x**2 * p * (1 - p)), rel=0.02)


def test_of_a_head_over_a_body_the_stage_gives_the_closed_form_of_logistic_regression(
    labeled: tuple[Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    """Over y its gradients' squares are p_k (1 - p_k) h_j^2 on average, without a draw; 400 rows leave some noise."""
    start = labeled[0]
    data = tiny_prepared(tmp_path / "data", {"train": tiny_rows(400, seed=4)})
    found = load_file(fisher(job(start, data), Workspace(tmp_path)).file)
    model: Any = AutoModelForSequenceClassification.from_pretrained(start.folder).eval()
    batch = open_split(data.path / "train.arrow", start.labels).batch(np.arange(400), Collator.of(model))
    with torch.no_grad():
        hidden = model.bert(**batch.inputs).pooler_output
        p = model.classifier(hidden).softmax(-1)
    weight = torch.einsum("nk,nj->kj", p * (1 - p), hidden.square()) / 400
    torch.testing.assert_close(found["classifier.bias"], (p * (1 - p)).mean(0), rtol=0.15, atol=0)
    torch.testing.assert_close(found["classifier.weight"], weight, rtol=0.3, atol=0)


def test_of_several_datasets_it_is_the_sum_and_of_rows_the_same_every_time(
    labeled: tuple[Checkpoint, PreparedDataset], tmp_path: Path
) -> None:
    start, data = labeled
    work = Workspace(tmp_path)
    once, twice = fisher(job(start, data), work), fisher(job(start, data, data), work)
    assert twice.trace == pytest.approx(2 * once.trace, rel=1e-5)
    some = fisher(job(start, data, rows=5), work)
    assert (some.rows, some.content) == (5, fisher(job(start, data, rows=5), Workspace(tmp_path / "again")).content)
    assert some.content != once.content


def test_beside_a_cluster_of_gpus_it_is_measured_here_without_one(
    labeled: tuple[Checkpoint, PreparedDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    asked = job(*labeled, rows=2)
    there = asked.compute.model_copy(update={"use_gpu": True, "ray_address": "http://head:8265"})
    assert fisher(asked.model_copy(update={"compute": there}), Workspace(tmp_path)).rows == 2


def test_a_head_that_is_still_random_is_refused(labeled: tuple[Checkpoint, PreparedDataset], tmp_path: Path) -> None:
    start, data = labeled
    with pytest.raises(RecipeError, match="head of 'base' is still random"):
        fisher(job(start.model_copy(update={"fresh_head": True}), data), Workspace(tmp_path))


def test_where_every_row_is_surely_right_little_is_needed() -> None:
    """Answers that leave no doubt draw themselves: the gradient of their log-probability is 0."""
    logits = torch.tensor([[50.0, 0.0, 0.0]], requires_grad=True)
    drawn_log_probs(logits, torch.tensor([0.4], dtype=torch.float64)).sum().backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) < 1e-12


class Says(nn.Module):
    """A model that says the same of any rows."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self) -> Any:
        return SimpleNamespace(logits=self.logits)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_kind_says_of_its_distribution_is_what_its_head_can_draw_from(kind: BatchKind) -> None:
    assert KINDS[kind].has_distribution == (type(KINDS[kind].head()).drawn_log_prob is not Head.drawn_log_prob)


def test_heads_of_other_kinds_draw_from_their_own_distributions() -> None:
    """Yes or no for each label by its sigmoid, a number with variance 1: the mean square of 20,000 rows' gradients."""
    rows, random = 20_000, np.random.default_rng(1)
    batch = Batch(inputs={}, supervised=torch.ones(rows, dtype=torch.int64))
    for kind, squares in (("multi_labeled", 0.2 * 0.8), ("scored", 1.0)):
        at = {"multi_labeled": math.log(0.2 / 0.8), "scored": 3.0}[kind]
        model = Says(torch.full((rows, 1), at))
        KINDS[cast(BatchKind, kind)].head().drawn_log_prob(model, batch, random).backward()
        assert model.logits.grad is not None
        assert float(model.logits.grad.square().mean()) == pytest.approx(squares, rel=0.05)
