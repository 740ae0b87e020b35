"""Scaling an adapter against mixing its merged weights, and when it must not be done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from torch import nn

from ftlib.config import BatchKind
from ftlib.evaluation import predictor
from ftlib.evaluation.evaluation import Evaluation
from ftlib.kinds.loading import load_model
from ftlib.kinds.outcomes_file import read_outcomes
from ftlib.kinds.writing import save_model
from ftlib.merging.adapter_sweep import AdapterSweep, walks_by_scaling
from ftlib.merging.adapters import unscaled
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate
from ftlib.merging.methods import Lerp, Lines
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import weights_digest
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.testing import LABELS, tiny_checkpoint, tiny_prepared, tiny_rows
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace


def fine_tuned(folder: Path, start: Checkpoint, **config: Any) -> Checkpoint:
    """Return theta1 of a LoRA phase as the train stage leaves it: merged weights, and the adapter beside them."""
    kind: BatchKind = "labeled" if start.labels else "tokens"
    model: Any = load_model(start.path / "model", kind)
    targets = ["query", "value"] if start.labels else ["q_proj", "v_proj"]
    wrapped: Any = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=8, target_modules=targets, **config))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(folder / "adapter")
    merged: nn.Module = wrapped.merge_and_unload()
    save_model(merged, folder / "model", start.labels, start.path / "model")
    weights = weights_digest(folder / "model")
    update = {"uri": str(folder), "weights": weights, "parent": start.weights, "phase": "tune"}
    return start.model_copy(update=update)


def logits(model: nn.Module) -> torch.Tensor:
    ids = torch.arange(5, 65).reshape(4, 15)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


@pytest.mark.parametrize("labels", [(), LABELS])
@pytest.mark.parametrize("rslora", [False, True])
def test_a_scaled_adapter_is_the_mixed_merged_weights(labels: tuple[str, ...], rslora: bool, tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", labels, phase="base")
    end = fine_tuned(tmp_path / "end", start, use_rslora=rslora)
    kind: BatchKind = "labeled" if labels else "tokens"
    sweep = AdapterSweep(Candidate.between(start, end, 0.5), kind)
    mixed = load_model(start.path / "model", kind)
    for alpha in (0.7, 0.1, 0.4):
        candidate = Candidate.between(start, end, alpha)
        assert walks_by_scaling(candidate)
        mix_into(mixed, candidate)
        scaled, merged = logits(sweep.at(Lerp(alpha=alpha))), logits(mixed)
        assert (scaled - merged).abs().max() <= 1e-6 * max(1.0, float(merged.abs().max()))


def test_an_adapter_scaled_layer_by_layer_is_the_mixed_merged_weights(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", LABELS, phase="base")
    end = fine_tuned(tmp_path / "end", start)
    sweep, mixed = (
        AdapterSweep(Candidate.between(start, end, 0.5), "labeled"),
        load_model(start.path / "model", "labeled"),
    )
    for merge in (Lines(alpha=0.9, shallow=0.2), Lines(shallow=0.0), Lerp(alpha=0.7, depth=(0.2, 1.0))):
        candidate = Candidate(name="layers", start=start, end=end, merge=merge)
        assert walks_by_scaling(candidate)
        mix_into(mixed, candidate)
        scaled, merged = logits(sweep.at(merge)), logits(mixed)
        assert (scaled - merged).abs().max() <= 1e-6 * max(1.0, float(merged.abs().max()))


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["classifier"]}, "modules_to_save"),
        ({"bias": "all"}, "bias"),
    ],
)
def test_what_scaling_does_not_reach_goes_the_merged_way(config: dict[str, Any], reason: str, tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", phase="probe")
    end = fine_tuned(tmp_path / "end", start, **config)
    assert unscaled(end.path / "adapter") == [reason]
    assert not walks_by_scaling(Candidate.between(start, end, 0.5))


def test_ends_and_full_fine_tunes_are_not_scaled(tmp_path: Path) -> None:
    start = tiny_checkpoint(tmp_path / "start", phase="probe")
    end = fine_tuned(tmp_path / "end", start)
    assert not walks_by_scaling(Candidate.between(start, end, 0.0))
    assert not walks_by_scaling(Candidate.between(start, end, 1.0))
    assert not walks_by_scaling(Candidate.of(end))
    full = tiny_checkpoint(tmp_path / "full", start=start, seed=3)
    assert not walks_by_scaling(Candidate.between(start, full, 0.5))


def test_evaluate_scales_and_measures_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = tiny_checkpoint(tmp_path / "start", (), phase="base")
    end = fine_tuned(tmp_path / "end", start)
    rows = tiny_prepared(tmp_path / "rows", {"test": tiny_rows(12)}, kind="tokens")
    mixed: list[float | None] = []

    def noted(model: nn.Module, candidate: Candidate) -> None:
        mixed.append(candidate.alpha)
        mix_into(model, candidate)

    monkeypatch.setattr(predictor, "mix_into", noted)
    evaluation = Evaluation.model_validate({"dataset": "rows", "metrics": [{"kind": "perplexity"}], "resamples": 100})
    job = EvaluateJob(
        name="rows",
        evaluation=evaluation,
        candidates=tuple(Candidate.between(start, end, alpha) for alpha in (0.0, 0.3, 0.6, 1.0)),
        data=rows,
        split="test",
        seed=0,
        compute=Compute(workers=0, threads=1),
    )
    scaled = evaluate(job, Workspace(tmp_path / "scaled"))
    assert mixed == [0.0, 1.0]
    for folder in (end.path / "adapter").iterdir():
        folder.unlink()
    merged = evaluate(job, Workspace(tmp_path / "merged"))
    assert mixed == [0.0, 1.0, 0.0, 0.3, 0.6, 1.0]
    for one, other in zip(scaled.measured, merged.measured, strict=True):
        a, b = (read_outcomes(tmp_path / n / cell.outcomes).nll for n, cell in (("scaled", one), ("merged", other)))
        np.testing.assert_allclose(a, b, rtol=1e-6)
