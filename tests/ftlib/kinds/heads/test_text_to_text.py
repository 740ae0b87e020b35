"""Encoder-decoders taught and asked, against stock transformers one row at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.prepared import split_file
from ftlib.data.processor import Processor
from ftlib.errors import ModelError
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.forward_pass import predict_split
from ftlib.evaluation.metrics import Bleu, ExactMatch
from ftlib.kinds import token_log_probs as of_tokens
from ftlib.kinds.batch import UNTAUGHT
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load, load_language_model
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_lm_tokenizer, tiny_prepared_as, tiny_sources, tiny_text_to_text
from ftlib.testing.models import TextFamily
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.completion import Completion
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.tuning import Tuning
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.lora import LoRA
from ftlib.workspace import Workspace

STARTS: dict[TextFamily, int] = {"t5": 0, "bart": 3, "marian": 0}
ROWS = [
    {
        "source": " ".join((row["source"] * 3).split()[: 3 + i]),
        "target": " ".join(row["target"].split()[: 1 + i % 7]),
    }
    for i, row in enumerate(tiny_sources(32))
]


@pytest.fixture(scope="module", params=["t5", "bart", pytest.param("marian", marks=pytest.mark.slow)])
def family(request: pytest.FixtureRequest) -> TextFamily:
    return request.param


@pytest.fixture(scope="module")
def start(family: TextFamily, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A base checkpoint as the stage makes it, whose weights are large enough to tell rows apart."""
    folder = tiny_text_to_text(tmp_path_factory.mktemp(family) / "model", family)
    found = find_model(ModelRef(path=str(folder)))
    made = base(BaseJob(model=found, kind="text_to_text", labels=(), seed=0), Workspace(tmp_path_factory.mktemp("w")))
    return made.model_copy(update={"tokenizer": "tiny"})


@pytest.fixture(scope="module")
def data(family: TextFamily, tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    format = TextToText(source="source", target="target", max_tokens=96, max_target_tokens=32)
    rows = {"train": ROWS[:16], "validation": ROWS[16:22], "test": ROWS[22:]}
    processor = Processor.of(tiny_lm_tokenizer(), decoder_start=STARTS[family])
    return tiny_prepared_as(tmp_path_factory.mktemp("data"), format, rows, processor)


def test_the_loss_is_that_of_stock_transformers_given_labels(data: PreparedDataset, start: Checkpoint) -> None:
    """Stock models shift the labels by themselves, behind their own start."""
    split, tokenizer = open_split(data.path / "train.arrow", ()), tiny_lm_tokenizer()
    stock = AutoModelForSeq2SeqLM.from_pretrained(start.path / "model").eval()
    total, count = 0.0, 0
    for row in ROWS[:16]:
        labels = tokenizer(text_target=row["target"], return_tensors="pt")["input_ids"]
        source = tokenizer(row["source"], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            total += float(stock(input_ids=source, labels=labels).loss) * labels.shape[1]
        count += labels.shape[1]
    with torch.no_grad():
        ours = Completion().loss(stock, split.batch(range(len(split)), Collator.of(stock)))
    assert ours.count == count == int(split.supervised.sum())
    assert float(ours.total) == pytest.approx(total, rel=1e-5)


def test_rows_of_a_later_file_of_a_mixed_batch_have_their_own_sources_and_targets(
    data: PreparedDataset, start: Checkpoint
) -> None:
    paths = [split_file(data.path, name) for name in ("train", "test")]
    collate = Collator.of(AutoModelForSeq2SeqLM.from_pretrained(start.path / "model"))
    joined, tokenizer = open_splits(paths, ()), tiny_lm_tokenizer()
    batch = joined.batch([21, 3], collate)
    for place, row in enumerate((ROWS[22 + 5], ROWS[3])):
        source, target = tokenizer(row["source"])["input_ids"], tokenizer(text_target=row["target"])["input_ids"]
        assert batch.inputs["input_ids"][place, : len(source)].tolist() == source
        assert int(batch.inputs["attention_mask"][place].sum()) == len(source)
        learnt = next_tokens(batch)[place]
        assert learnt[learnt != UNTAUGHT].tolist() == target
        assert joined.targets.texts[(21, 3)[place]].as_py() == row["target"]  # type: ignore[union-attr]
    assert batch.supervised.tolist() == (next_tokens(batch) != UNTAUGHT).sum(1).tolist()


@pytest.mark.parametrize("beams", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_a_split_is_written_as_stock_generate_writes_each_source_alone(
    data: PreparedDataset, start: Checkpoint, family: TextFamily, beams: int
) -> None:
    split, tokenizer = open_split(data.path / "test.arrow", ()), tiny_lm_tokenizer()
    stock = AutoModelForSeq2SeqLM.from_pretrained(start.path / "model").eval()
    table = predict_split(stock, split, (), lambda: tokenizer, max_new_tokens=6, num_beams=beams)
    assert isinstance(table, CompletionOutcomes)
    assert table.references == tuple(row["target"] for row in ROWS[22:])
    for row, ours in zip(ROWS[22:], table.written(), strict=True):
        stock.generation_config = GenerationConfig(
            max_new_tokens=6, num_beams=beams, eos_token_id=3, pad_token_id=0, decoder_start_token_id=STARTS[family]
        )
        said = stock.generate(**tokenizer(row["source"], return_tensors="pt", return_token_type_ids=False))
        theirs = said[0, 1:].tolist()
        theirs = theirs[: theirs.index(3)] if 3 in theirs else theirs
        assert ours == tokenizer.decode(theirs, skip_special_tokens=True)
    right = sum(ours == theirs for ours, theirs in zip(table.written(), table.references, strict=True))
    assert ExactMatch().compute(table) == right / len(table)
    assert 0 <= Bleu().compute(table) <= 100


SLOW = pytest.mark.slow
TUNINGS = [pytest.param(Full(), id="full"), pytest.param(LoRA(rank=2), id="lora", marks=SLOW)]


@pytest.mark.parametrize(
    "family", ["t5", pytest.param("bart", marks=SLOW), pytest.param("marian", marks=SLOW)], indirect=True
)
@pytest.mark.parametrize("tuning", TUNINGS)
def test_the_split_of_a_batch_does_not_change_the_training_and_the_right_tensors_move(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path, tuning: Tuning
) -> None:
    """Marian's sines of positions, which are in no file, stay as they are: `check_moved` looks at every tensor."""
    settings = AdamW(learning_rate=1e-3, epochs=1, batch_size=8)
    phase = Phase(name="tune", dataset="d", objective=Completion(), tuning=tuning, optimizer=settings, dropout=0.0)
    losses, ends = [], []
    for micro in (None, 3):
        compute = Compute(workers=0, threads=1, micro_batch_size=micro)
        job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)
        done = train(job, Workspace(tmp_path / str(micro)))
        losses.append([r["loss"] for r in curves.read(done.path / curves.FILE) if "loss" in r])
        ends.append(done)
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
    split, model = open_split(data.path / "test.arrow", ()), load(start, "text_to_text")
    moved = token_divergence(model, load(ends[0], "text_to_text"), split)
    assert (moved > 0).all()


def test_long_vocabularies_are_read_in_parts_where_the_last_layer_says_the_logits(
    data: PreparedDataset, start: Checkpoint, family: TextFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BART and Marian add a bias behind theirs, so that they are asked whole."""
    split, model = open_split(data.path / "test.arrow", ()), load(start, "text_to_text")
    batch = split.batch(range(len(split)), Collator.of(model))
    with torch.no_grad():
        whole = of_tokens.token_log_probs(model, batch)
        monkeypatch.setattr(of_tokens, "WHOLE", 0)
        monkeypatch.setattr(of_tokens, "PART", 4096)
        parts = of_tokens.token_log_probs(model, batch)
    assert of_tokens._is_last(model) == (family == "t5")
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_a_decoder_is_not_loaded_without_its_encoder(tmp_path: Path) -> None:
    """transformers has a class for BART's decoder alone, whose answers would mean nothing."""
    folder = tiny_text_to_text(tmp_path, "bart")
    with pytest.raises(ModelError, match=r"is an encoder-decoder \(bart\), and asked for is AutoModelForCausalLM"):
        load_language_model(folder)
