"""Policies that learn from their own answers: exact gradients, exact splits, exact resume."""

from __future__ import annotations

from pathlib import Path

from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_causal_lm, tiny_prepared, tiny_prompts
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.rloo import RLOO
from ftlib.training.optimizers.adamw import AdamW
from ftlib.training.phase import Phase
from ftlib.training.rewards.length import Length
from ftlib.training.tuning.full import Full
from ftlib.workspace import Workspace


def make_job(root: Path, objective: object = None, tuning: object = None, epochs: int = 4, **compute: object) -> TrainJob:
    rows = tiny_prompts(20)
    data = tiny_prepared(root / "data", {"train": rows[:16], "validation": rows[16:]}, kind="completions")
    model = find_model(ModelRef(path=str(tiny_causal_lm(root / "tiny"))))
    start = base(BaseJob(model=model, kind="completions", labels=(), seed=1), Workspace(root))
    phase = Phase(
        name="tune",
        dataset="d",
        objective=objective or RLOO(reward=Length(least=30, most=40), group_size=4, max_new_tokens=12),
        tuning=tuning or Full(),
        optimizer=AdamW(learning_rate=3e-3, epochs=epochs, batch_size=8),
    )
    options = {"workers": 0, "threads": 1, **compute}
    return TrainJob(
        start=start, data=data, phase=phase, precision="fp32", seed=3, compute=Compute.model_validate(options)
    )


def test_a_policy_learns_what_is_worth_more(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    done = train(job, Workspace(tmp_path / "whole"))
    for record in curves.read(done.path / curves.FILE):
        print(record)
    print(done.facts)
    assert done.facts["last_reward"] > done.facts["first_reward"]
