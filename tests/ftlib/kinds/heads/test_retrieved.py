"""Sentence embeddings: the loss against sentence-transformers' formula in numpy, ranks against counting."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import ndcg_score
from transformers import AutoModel, AutoTokenizer

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.retrieval_pairs import RetrievalPairs
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.data.rows import Dropped, Example
from ftlib.evaluation.forward_pass import predict_split
from ftlib.evaluation.metrics.mrr import MRR
from ftlib.evaluation.metrics.ndcg import NDCG
from ftlib.evaluation.metrics.recall_at import RecallAt
from ftlib.kinds.collate import Collator
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.kinds.outcomes import RetrievalOutcomes
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.kinds.pooling import pooled
from ftlib.kinds.published_processor import settle_processor
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_classifier, tiny_pairs, tiny_prepared_as, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.training.objectives.multiple_negatives import MultipleNegatives
from ftlib.training.objectives.prepared import Context
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

FORMAT = RetrievalPairs(anchor="anchor", positive="positive", max_tokens=24)


@dataclass
class Made:
    """Pairs, and a model without a head."""

    data: PreparedDataset
    start: Checkpoint

    def split(self, name: str = "train") -> Any:
        return open_split(split_file(self.data.path, name), ())  # type: ignore[arg-type]

    def stock(self) -> Any:
        return AutoModel.from_pretrained(self.start.path / "model").eval()

    def job(self, tuning: Any = None, **compute: Any) -> TrainJob:
        settings = AdamW(learning_rate=3e-3, epochs=3, batch_size=8)
        phase = Phase(
            name="tune", dataset="d", objective=MultipleNegatives(), tuning=tuning or Full(), optimizer=settings,
            dropout=0.0,
        )  # fmt: skip
        options = {"workers": 0, "threads": 1, **compute}
        return TrainJob(
            start=self.start, data=self.data, phase=phase, precision="fp32", seed=7, compute=Compute(**options)
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder, rows = tmp_path_factory.mktemp("retrieved"), tiny_pairs(48)
    splits: Any = {"train": rows[:24], "validation": rows[24:36], "test": rows[36:]}
    data = tiny_prepared_as(folder / "data", FORMAT, splits, Processor.of(tiny_tokenizer()))
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return Made(data, base(BaseJob(model=model, kind="retrieved", labels=(), seed=1), Workspace(folder)))


def vectors_of(rows: int, texts: int, seed: int = 0) -> torch.Tensor:
    drawn = torch.randn(rows, texts, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.nn.functional.normalize(drawn, dim=-1)


@pytest.mark.parametrize("texts", [2, 3])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_loss_is_sentence_transformers_own(texts: int, symmetric: bool) -> None:
    """Its MultipleNegativesRankingLoss: cross-entropy of 20 times the cosines, candidates one list after the other."""
    vectors = vectors_of(6, texts)
    ours = MultipleNegatives(symmetric=symmetric).of_rows(vectors, torch.arange(6 * texts).reshape(6, texts))
    anchors, candidates = vectors[:, 0].numpy(), np.concatenate([vectors[:, i].numpy() for i in range(1, texts)])
    scores = 20 * anchors @ candidates.T
    theirs = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    if symmetric:
        back = scores[:, :6].T
        theirs = (theirs + np.log(np.exp(back).sum(1)) - np.diag(back)) / 2
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)


def test_the_same_text_and_another_of_the_same_anchor_are_no_negatives() -> None:
    vectors = vectors_of(4, 2)
    keys = torch.tensor([[0, 10], [1, 11], [2, 10], [0, 13]])  # rows 0 and 2 find one text, rows 0 and 3 are one anchor
    each = MultipleNegatives().of_rows(vectors, keys)
    scores = 20 * vectors[:, 0] @ vectors[:, 1].T
    among = {0: [0, 1], 1: [0, 1, 2, 3], 2: [1, 2, 3], 3: [1, 3]}
    for row, candidates in among.items():
        expected = scores[row, candidates].logsumexp(0) - scores[row, row]
        assert float(each[row]) == pytest.approx(float(expected), rel=1e-9)


def test_the_gradient_is_that_of_one_pass_over_the_whole_batch(made: Made) -> None:
    model, split = made.stock(), made.split()
    batch, objective = split.batch(range(8), Collator.of(model)), MultipleNegatives()
    prepared = objective.prepare(model, batch)
    context = Context({}, None, {name: one.detach() for name, one in prepared.rows.items()}, torch.arange(8))
    ours = objective.loss(model, batch, context)
    ours.total.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    whole = objective.of_rows(pooled(model, batch.inputs).unflatten(0, (8, 2)), batch.targets).sum()
    whole.backward()
    assert ours.total.item() == pytest.approx(whole.item(), rel=1e-6)
    assert ours.count == 8
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)


def test_rows_of_a_later_file_of_a_mixed_batch_have_their_own_texts(made: Made) -> None:
    paths = [split_file(made.data.path, name) for name in ("train", "test")]
    collate = Collator.of(made.stock())
    ours, theirs = open_splits(paths, ()).batch([24, 29], collate), open_split(paths[1], ()).batch([0, 5], collate)
    assert ours.targets is not None
    assert theirs.targets is not None
    assert torch.equal(ours.targets, theirs.targets)
    assert torch.equal(ours.inputs["input_ids"], theirs.inputs["input_ids"])


def test_texts_are_read_as_stock_reads_them_and_ranked_as_counting_says(made: Made) -> None:
    split, stock, tokenizer = made.split("test"), made.stock(), tiny_tokenizer()
    rows = tiny_pairs(48)[36:]

    def said(column: str) -> np.ndarray:
        given = tokenizer(
            [row[column] for row in rows], padding=True, truncation=True, max_length=24, return_tensors="pt"
        )
        with torch.no_grad():
            states = stock(given["input_ids"], given["attention_mask"]).last_hidden_state
        mask = given["attention_mask"][..., None]
        vectors = ((states * mask).sum(1) / mask.sum(1)).numpy()
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    whole = predict_split(stock, split, (), tiny_tokenizer)
    assert isinstance(whole, RetrievalOutcomes)
    np.testing.assert_allclose(whole.vectors[:, 0], said("anchor"), atol=1e-5)  # type: ignore[index]
    assert np.array_equal(parse_outcomes(whole.to_parquet()).by_example().rank, whole.by_example().rank)
    table, scores = whole.by_example(), said("anchor") @ said("positive").T
    rank = (scores >= np.diag(scores)[:, None] - 1e-12).sum(1)
    assert np.array_equal(table.rank, rank)
    assert MRR().compute(table) == pytest.approx(np.mean(1 / rank))
    assert RecallAt(k=3).compute(table) == pytest.approx(np.mean(rank <= 3))
    assert NDCG(k=5).compute(table) == pytest.approx(ndcg_score(np.eye(len(rows)), scores, k=5))
    assert (RecallAt(k=3).name, NDCG().name) == ("recall_at@3", "ndcg@10")
    nll = np.log(np.exp(20 * scores).sum(1)) - 20 * np.diag(scores)
    np.testing.assert_allclose(table.nll, nll, rtol=1e-3)


def test_a_corpus_has_each_text_once_and_other_texts_of_an_anchor_are_no_mistakes() -> None:
    vectors = vectors_of(4, 2).numpy().astype(np.float32)
    vectors[2, 1], vectors[3, 0] = vectors[0, 1], vectors[0, 0]
    keys = np.array([[0, 10], [1, 11], [2, 10], [0, 13]])
    ones = np.ones(4, np.int64)
    table = RetrievalOutcomes(
        row_ids=tuple("abcd"), nll=np.zeros(4), targets=ones, rank=0 * ones, vectors=vectors, keys=keys
    ).by_example()
    cosines = vectors[:, 0].astype(np.float64) @ vectors[[0, 1, 3], 1].astype(np.float64).T
    for row, (own, corpus) in enumerate([(0, [0, 1]), (1, [0, 1, 2]), (0, [0, 1, 2]), (2, [1, 2])]):
        assert table.rank[row] == (cosines[row, corpus] >= cosines[row, own]).sum()


@pytest.mark.parametrize("tuning", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_it_learns_resumes_to_the_bit_and_is_published_with_its_pooling(
    made: Made, tmp_path: Path, tuning: str
) -> None:
    chosen = Full() if tuning == "full" else LoRA(rank=2)
    whole = train(made.job(chosen), Workspace(tmp_path / "whole"))
    with stopped_at(4, late=1):
        train(made.job(chosen), Workspace(tmp_path / "again"))
    again = train(made.job(chosen), Workspace(tmp_path / "again"))
    assert again.weights == whole.weights
    ends = AutoModel.from_pretrained(whole.path / "model"), made.stock()
    moved = {name for name, p in ends[0].named_parameters() if not torch.equal(p, ends[1].get_parameter(name))}
    trained = {name for name in moved if "key.bias" not in name}
    linear = {name for name, _ in ends[1].named_parameters() if "dense.weight" in name or "self" in name}
    linear = {name for name in linear if name.endswith("weight") and "LayerNorm" not in name and "pooler" not in name}
    every = {name for name, _ in ends[1].named_parameters() if "pooler" not in name and "key.bias" not in name}
    assert trained == (every if tuning == "full" else linear)
    if tuning == "full":
        settle_processor(whole.path / "model", FORMAT)
        modules = json.loads((whole.path / "model" / "modules.json").read_bytes())
        assert [module["path"] for module in modules] == ["", "1_Pooling", "2_Normalize"]
        assert json.loads((whole.path / "model" / "1_Pooling" / "config.json").read_bytes()) == {
            "word_embedding_dimension": 32,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
        }
        assert AutoTokenizer.from_pretrained(whole.path / "model").split_special_tokens


def test_a_row_lacks_no_text_and_a_long_one_is_counted() -> None:
    three = RetrievalPairs(anchor="anchor", positive="positive", negative="negative", max_tokens=8)
    assert three.columns == ("anchor", "positive", "negative")
    assert three.example({"anchor": "a", "positive": "b"}) == Dropped("missing_text")
    assert three.example({"anchor": "a", "positive": " ", "negative": "c"}) == Dropped("empty_text")
    assert three.example({"anchor": "a", "positive": 3, "negative": "c"}) == Dropped("text_not_a_string")
    example = three.example({"anchor": "battery", "positive": "battery " * 9, "negative": "fan"})
    assert isinstance(example, Example)
    (encoded,) = three.encode([example], Processor.of(tiny_tokenizer()))
    (piece,) = encoded.pieces
    assert encoded.truncated
    assert piece.target == (3, 11, 14)
    assert not three.encode([Example("fan")], Processor.of(tiny_tokenizer()))[0].truncated
