"""Masked language modelling: what is hidden, by counting; losses and tables against stock BertForMaskedLM."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForMaskedLM, DataCollatorForLanguageModeling

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.masked_text import MaskedText
from ftlib.data.inputs import Masking
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.errors import DataError, RecipeError
from ftlib.evaluation.forward_pass import predict_split
from ftlib.evaluation.metrics.masked_accuracy import MaskedAccuracy
from ftlib.evaluation.metrics.perplexity import Perplexity
from ftlib.kinds.batch import UNTAUGHT
from ftlib.kinds.collate import Collator
from ftlib.kinds.draws import Draw
from ftlib.kinds.heads.masked import hide
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_classifier, tiny_prepared_as, tiny_rows, tiny_tokenizer
from ftlib.training.compute import Compute
from ftlib.training.objectives.masked_lm import MaskedLM
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

MASKING = Masking(token=4, vocabulary=240, rate=0.15)
FORMAT = MaskedText(text="text", max_tokens=32)


@dataclass
class Made:
    """Rows, and a model whose head for them is fresh."""

    data: PreparedDataset
    start: Checkpoint

    def split(self, name: str = "train") -> Any:
        return open_split(split_file(self.data.path, name), ())  # type: ignore[arg-type]

    def stock(self) -> Any:
        return AutoModelForMaskedLM.from_pretrained(self.start.path / "model").eval()

    def job(self, tuning: Any = None, **compute: Any) -> TrainJob:
        settings = AdamW(learning_rate=3e-3, epochs=3, batch_size=8)
        phase = Phase(
            name="adapt", dataset="d", objective=MaskedLM(), tuning=tuning or Full(), optimizer=settings, dropout=0.0
        )
        options = {"workers": 0, "threads": 1, **compute}
        return TrainJob(
            start=self.start, data=self.data, phase=phase, precision="fp32", seed=7, compute=Compute(**options)
        )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("masked")
    rows = tiny_rows(48)
    splits: Any = {"train": rows[:24], "validation": rows[24:36], "test": rows[36:]}
    data = tiny_prepared_as(folder / "data", FORMAT, splits, Processor.of(tiny_tokenizer()))
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "tiny"))))
    return Made(data, base(BaseJob(model=model, kind="masked", labels=(), seed=1), Workspace(folder)))


def test_as_much_is_hidden_in_the_same_ways_as_stock_hides(made: Made) -> None:
    """By counting 60,000 tokens, each a word of its own, against the collator that everybody uses."""
    tokens, words = np.full(600, 100), np.arange(600)
    words[0] = words[-1] = -1
    masked, replaced, other = [], [], []
    for row in range(100):
        read, hidden = hide(tokens, words, MASKING, Draw(1, 0).of(row))
        assert not {0, 599} & {*hidden}
        masked.append(len(hidden) / 598)
        replaced.append((read[hidden] == 4).mean())
        other.append(((read[hidden] != 4) & (read[hidden] != 100)).mean())
        assert (np.delete(read, hidden) == 100).all()
    stock = DataCollatorForLanguageModeling(tiny_tokenizer(), seed=1)
    theirs = stock([{"input_ids": tokens.tolist()} for _ in range(100)])
    taught = theirs["labels"] != UNTAUGHT
    read = theirs["input_ids"][taught]
    assert np.mean(masked) == pytest.approx(float(taught.float().mean()), abs=0.01)
    assert np.mean(replaced) == pytest.approx(float((read == 4).float().mean()), abs=0.02)
    assert np.mean(other) == pytest.approx(float(((read != 4) & (read != 100)).float().mean()), abs=0.02)


def test_words_are_hidden_whole_and_every_row_teaches() -> None:
    words = np.array([-1, 0, 1, 1, 1, 2, 3, 3, -1])
    seen = [frozenset(hide(words + 50, words, MASKING, Draw(0, 0).of(row))[1].tolist()) for row in range(200)]
    whole = [{1}, {2, 3, 4}, {5}, {6, 7}]
    assert all(hidden and hidden == set().union(*(word for word in whole if word & hidden)) for hidden in seen)
    assert {1, 2, 5, 6} <= set().union(*seen)
    split = FORMAT.model_copy(update={"whole_words": False})
    encoded = split.encode([FORMAT.example({"text": "abcde fg"})], Processor.of(tiny_tokenizer()))  # type: ignore[list-item]
    assert encoded[0].pieces[0].target == (-1, *range(1, 8), -1)


def test_a_draw_is_a_function_of_seed_epoch_and_row_alone(made: Made) -> None:
    def read(split: Any, rows: list[int]) -> list[list[int]]:
        return [cell.tolist() for cell in split.targets.read(rows)]

    split = made.split()
    first = read(split.drawn(Draw(3, 1)), [5, 2, 9])
    assert first == read(split.drawn(Draw(3, 1)), [9, 2, 5])[::-1] != read(split.drawn(Draw(3, 2)), [5, 2, 9])
    assert read(split, [5]) == read(made.split(), [5])  # what is measured is asked the same every time


def test_rows_of_a_later_file_of_a_mixed_batch_are_hidden_in_their_own_tokens(made: Made) -> None:
    paths = [split_file(made.data.path, name) for name in ("train", "test")]
    joined, alone, collate = open_splits(paths, ()), open_split(paths[1], ()), Collator.of(made.stock())
    batch = joined.batch([24, 29], collate)
    assert batch.targets is not None
    whole = torch.where(batch.targets == UNTAUGHT, batch.inputs["input_ids"], batch.targets)
    for row, ours in zip([0, 5], whole.tolist(), strict=True):
        theirs = alone.tokens(row).tolist()
        assert ours[: len(theirs)] == theirs


def test_loss_and_table_are_stock_transformers_own(made: Made) -> None:
    split, stock = made.split().drawn(Draw(3, 1)), made.stock()
    batch = split.batch(range(8), Collator.of(stock))
    with torch.no_grad():
        ours = MaskedLM().loss(stock, batch)
        theirs = stock(**batch.inputs, labels=batch.targets)
    assert ours.count == int((batch.targets != UNTAUGHT).sum()) == int(batch.supervised.sum()) == batch.terms
    assert float(ours.total) / ours.count == pytest.approx(float(theirs.loss), rel=1e-5)
    table = predict_split(stock, made.split("test"), (), tiny_tokenizer)
    whole = made.split("test").batch(range(len(table)), Collator.of(stock))
    with torch.no_grad():
        said = stock(**whole.inputs, labels=whole.targets)
    assert Perplexity().compute(table) == pytest.approx(float(said.loss.exp()), rel=1e-4)
    right = (said.logits.argmax(-1) == whole.targets).sum() / (whole.targets != UNTAUGHT).sum()
    assert MaskedAccuracy().compute(table) == pytest.approx(float(right))


def test_it_learns_all_and_resumes_to_the_bit_and_no_split_of_a_batch_matters(made: Made, tmp_path: Path) -> None:
    whole = train(made.job(), Workspace(tmp_path / "whole"))
    assert whole.trained_parameters == whole.parameters
    assert made.start.fresh_head
    with stopped_at(4, late=1):
        train(made.job(), Workspace(tmp_path / "again"))
    again = train(made.job(), Workspace(tmp_path / "again"))
    assert again.facts["resumed_from_step"] in (4, 5)
    assert again.weights == whole.weights
    split = train(made.job(micro_batch_size=3), Workspace(tmp_path / "split"))
    assert split.facts["best_validation_loss"] == pytest.approx(whole.facts["best_validation_loss"], rel=1e-4)
    tied = AutoModelForMaskedLM.from_pretrained(whole.path / "model")
    assert tied.cls.predictions.decoder.weight is tied.bert.embeddings.word_embeddings.weight


@pytest.mark.slow
def test_an_adapter_copies_no_head_and_is_refused_one_that_is_random(made: Made, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'lora' trains no head of masked language modelling, and the model brings "):
        train(made.job(LoRA(rank=2)), Workspace(tmp_path))
    adapted = made.job(LoRA(rank=2)).model_copy(update={"start": made.start.model_copy(update={"fresh_head": False})})
    ours = AutoModelForMaskedLM.from_pretrained(train(adapted, Workspace(tmp_path)).path / "model")
    moved = {name for name, p in ours.named_parameters() if not torch.equal(p, made.stock().get_parameter(name))}
    assert moved
    assert all(name.endswith(".weight") and "embeddings" not in name and "Norm" not in name for name in moved)


def test_a_tokenizer_without_a_mask_is_refused_in_one_line() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.mask_token = None
    with pytest.raises(RecipeError, match=r"^format: 'masked_text' hides words behind the tokenizer's mask token, and"):
        FORMAT.inputs(Processor.of(tokenizer))


def test_long_texts_become_rows_and_what_a_user_asks_is_one() -> None:
    processor, long = Processor.of(tiny_tokenizer()), "battery " * 40
    pieces = FORMAT.encode([FORMAT.example({"text": long})], processor)[0].pieces  # type: ignore[list-item]
    assert [len(piece.ids) for piece in pieces] == [32, 12]
    assert all(piece.ids[0] == 2 and piece.ids[-1] == 3 and piece.supervised >= 1 for piece in pieces)
    from ftlib.data.limits import Limits
    from ftlib.kinds.predictions import Asked, HiddenPredictor

    predictor = HiddenPredictor(tuple(f"t{i}" for i in range(240)), 0.0, Limits())
    with pytest.raises(DataError, match=r"hides nothing; write \[MASK\]"):
        predictor.example("nothing", keep_lines=False)
    example = predictor.example("a <mask> b [MASK]", keep_lines=False)
    (piece,) = FORMAT.encode([example], processor)[0].pieces
    places = [i for i, id in enumerate(piece.ids) if id == 4]
    assert len(places) == 2
    logits = torch.zeros(len(piece.ids), 240)
    logits[places[0], 17], logits[places[1], 9] = 9.0, 9.0
    assert predictor.prediction(Asked(example, [piece], [logits])).line() == "t17\tt9"
