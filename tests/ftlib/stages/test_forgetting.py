"""What a language model forgot, as KL per token: from records, through a mix, computed once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ftlib.data.formats.plain_text import PlainText
from ftlib.data.processor import Processor
from ftlib.errors import StorageError
from ftlib.evaluation import divergence
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.selection import Selection
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.models.checkpoint import FoundModel
from ftlib.recipe.evidence import Evidence
from ftlib.recipe.recipe import Recipe
from ftlib.report.forgetting import divergences
from ftlib.stages.evaluate import EvaluateJob, evaluate
from ftlib.testing import tiny_checkpoint, tiny_lm_tokenizer, tiny_prepared_as, tiny_rows
from ftlib.workspace import Workspace


def recipe() -> Recipe:
    format = {"kind": "plain_text", "text": "text", "max_tokens": 64}
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "datasets": {"prose": {"source": {"kind": "files", "path": "x"}, "format": format}},
            "phases": [
                {"name": "tune", "dataset": "prose", "objective": {"kind": "causal_lm"}, "tuning": {"kind": "full"}}
            ],
            "evaluations": {
                "prose": {
                    "dataset": "prose", "role": "retained", "metrics": [{"kind": "perplexity"}], "resamples": 100
                }
            },
            "select": {"by": "prose/perplexity"},
            "publish": {"name": "r"},
            "compute": {"workers": 0, "threads": 1},
        }
    )  # fmt: skip


@pytest.fixture
def found(tmp_path: Path) -> Evidence:
    of = recipe()
    base = tiny_checkpoint(tmp_path / "base", labels=())
    tune = tiny_checkpoint(tmp_path / "tune", labels=(), phase="tune", start=base, seed=1)
    data = tiny_prepared_as(
        tmp_path / "data",
        PlainText(text="text", max_tokens=64),
        {"test": tiny_rows(12)},
        Processor.of(tiny_lm_tokenizer()),
    )
    middle = Candidate.between(base, tune, 0.5)
    members = (Candidate.of(base), middle)
    job = EvaluateJob(
        name="prose",
        evaluation=of.evaluations["prose"],
        candidates=members,
        data=data,
        split="test",
        seed=0,
        compute=of.compute,
    )
    return Evidence(
        recipe=of,
        model=FoundModel(name="m", uri="", weights="w", tokenizer="tiny"),
        raw={},
        prepared={"prose": data},
        checkpoints=(base, tune),
        candidates=Candidates(members=members),
        sweep=(),
        selection=Selection(chosen=middle, rule="best", why=""),
        final=(evaluate(job, Workspace(tmp_path / "work")),),
    )


def test_the_chosen_mix_is_held_against_the_base_model_and_only_once(
    found: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, (base, _) = Workspace(tmp_path / "work"), found.checkpoints
    first = divergences(found, work, base, ["prose"])
    ours = load_model(base.path / "model", "tokens")
    mix_into(ours, found.selection.chosen)
    split = open_split(found.prepared["prose"].path / "test.arrow", ())
    sums = token_divergence(load_model(base.path / "model", "tokens"), ours, split)
    assert first["prose"].value == pytest.approx(sums.sum() / split.supervised.sum(), rel=1e-6)
    assert 0 < first["prose"].low < first["prose"].value < first["prose"].high
    assert np.ptp(sums) > 0

    monkeypatch.setattr(divergence, "token_divergence", None)
    assert divergences(found, work, base, ["prose"]) == first
    (file,) = (tmp_path / "work" / "divergences").glob("*.parquet")
    file.write_bytes(b"damaged")
    with pytest.raises(StorageError, match=f"{file.name} is damaged"):
        divergences(found, work, base, ["prose"])
