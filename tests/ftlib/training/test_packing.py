"""A phase whose rows are packed learns what it learns of padded ones, also killed half-way; or says why it cannot."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
import torch

from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.packed_attention import NAME
from ftlib.models.checkpoint import Checkpoint
from ftlib.progress import listen
from ftlib.recipe.file import load_recipe
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_checkpoint, tiny_prepared, tiny_prompts
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.memory.live_bytes import LiveBytes
from ftlib.training.objectives.completion import Completion
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"), labels=())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = [{**row, "prompt": f"{row['prompt']} again" * (i % 3)} for i, row in enumerate(tiny_prompts(46))]
    folder = tmp_path_factory.mktemp("data")
    return tiny_prepared(folder, {"train": rows[:40], "validation": rows[40:]}, kind="completions")


def job(start: Checkpoint, data: PreparedDataset, pack_tokens: int | None) -> TrainJob:
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "completion"},
            "tuning": {"kind": "lora", "rank": 2},
            "optimizer": {"learning_rate": 1e-2, "epochs": 1, "batch_size": 8},
        }
    )
    compute = Compute(workers=0, threads=1, pack_tokens=pack_tokens, checkpoint_seconds=1e-6)
    return TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)


def curve(done: Checkpoint) -> list[float]:
    records = curves.read(done.path / curves.FILE)
    return [record[name] for name in ("loss", "grad_norm", "validation_loss") for record in records if name in record]


def test_packed_rows_teach_what_padded_rows_teach(start: Checkpoint, data: PreparedDataset, tmp_path: Path) -> None:
    padded = train(job(start, data, None), Workspace(tmp_path / "padded"))
    for most in (data.splits["train"].longest, 5000):
        packed = train(job(start, data, most), Workspace(tmp_path / str(most)))
        assert curve(packed) == pytest.approx(curve(padded), rel=1e-4)
        assert curve(packed) != curve(padded)  # they were packed
    assert job(start, data, 5000).fingerprint == job(start, data, None).fingerprint


def test_a_packed_phase_that_is_stopped_goes_on_to_the_same_bits(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "done", 0) >= 3:
            raise Stop

    asked = job(start, data, 64)
    whole = train(asked, Workspace(tmp_path / "whole"))
    with contextlib.suppress(Stop), listen(stop):
        train(asked, Workspace(tmp_path / "half"))
    resumed = train(asked, Workspace(tmp_path / "half"))
    assert resumed.facts["resumed_from_step"] >= 1
    assert (resumed.weights, curve(resumed)) == (whole.weights, curve(whole))


def test_a_row_longer_than_a_pack_is_refused_before_anything_trains(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path
) -> None:
    longest = max(data.splits[split].longest for split in ("train", "validation"))
    with pytest.raises(RecipeError, match=rf"pack_tokens: {longest - 1}, but the longest row of dataset 'd' has "
                                          rf"{longest} tokens; raise it to {longest} or more, or lower"):  # fmt: skip
        train(job(start, data, longest - 1), Workspace(tmp_path))


def test_a_model_that_mixes_packed_rows_does_not_train(
    start: Checkpoint, data: PreparedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ftlib.kinds.packing._largest", lambda differences: float("nan"))
    with pytest.raises(ModelError, match=r"compute\.pack_tokens: LlamaForCausalLM answers a row otherwise in a pack"):
        train(job(start, data, 200), Workspace(tmp_path))


RECIPE = """
name: texts
model: {path: model}
datasets:
  texts: {source: {kind: files, path: rows.jsonl}, format: {kind: plain_text, text: text}}
phases: [{name: tune, dataset: texts, objective: {kind: causal_lm}, tuning: {kind: full}}]
evaluations: {texts: {dataset: texts, metrics: [{kind: perplexity}]}}
select: {by: texts/perplexity}
publish: {name: texts, to: {kind: folder, path: registry}}
compute: {workers: 0, pack_tokens: 512}
"""
LABELS = [
    "datasets.texts.format={kind: labeled_text, text: text, label: label}",
    "phases.0.objective={kind: classification}",
    "evaluations.texts.metrics=[{kind: accuracy}]",
    "select.by=texts/accuracy",
    "interpolation={kind: 'off'}",
]


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["compute.micro_batch_size=4"], r"either packs of 512 tokens or 4 rows; set one of pack_tokens and micro_"),
        (LABELS, r"rows of 'chats', 'completions', 'tokens' are packed, those of 'texts', .* are 'labeled'; set"),
        (["compute.pack_tokens=0"], r"compute\.pack_tokens.*greater than 0|pack_tokens.*0"),
        (["compute.pack_tokens=many"], r"compute\.pack_tokens"),
        (["compute.sample_packing=true"], r"pack_tokens"),
    ],
)  # fmt: skip
def test_packing_that_cannot_be_is_said_before_anything_starts(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    (tmp_path / "texts.yaml").write_text(RECIPE)
    assert load_recipe(tmp_path / "texts.yaml").compute.pack_tokens == 512
    with pytest.raises(RecipeError, match=words):
        load_recipe(tmp_path / "texts.yaml", overrides)


def test_an_objective_says_that_it_reads_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("ftlib.training.objectives.causal_lm.CausalLM.packs")
    (tmp_path / "texts.yaml").write_text(RECIPE)
    with pytest.raises(RecipeError, match=r"objective 'causal_lm' of phase 'tune' does not say that it reads packed"):
        load_recipe(tmp_path / "texts.yaml")


@pytest.mark.parametrize("whole", [True, False])
def test_what_a_pack_holds_is_counted_without_memory(
    start: Checkpoint, data: PreparedDataset, whole: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(start.path / "model", "completions")
    live = LiveBytes(model, {}, model.config.vocab_size)
    live.model.set_attn_implementation(NAME)
    if not whole:
        monkeypatch.setattr("ftlib.kinds.token_log_probs.WHOLE", 0)
        monkeypatch.setattr("ftlib.kinds.token_log_probs.PART", 7 * 4 * model.config.vocab_size)
    split, rows = open_split(data.path / "train.arrow", ()), np.arange(5)
    collate = Collator.of(live.model, torch.device("cpu"))
    held = live.peak(lambda: Completion().loss(live.model, split.pack(rows, collate)).total.backward())
    logits = 4 * model.config.vocab_size * int(split.lengths[rows].sum())
    assert (held.logits >= logits) == whole
    assert held.activations > 0
