"""DPO's loss and gradients of one step against TRL's own trainer, where it is installed (the extra `benchmarks`)."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ftlib.data.prepared import add_scores, split_file
from ftlib.evaluation.row_scores import score_rows
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.testing import tiny_chat_lm, tiny_preferences, tiny_prepared
from ftlib.training.objectives.dpo import DPO

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (DPO(), {"loss_type": "sigmoid", "beta": 0.1}),
        (DPO(beta=0.3, loss_type="ipo"), {"loss_type": "ipo", "beta": 0.3}),
        (
            DPO(loss_type="robust", label_smoothing=0.2),
            {"loss_type": "robust", "beta": 0.1, "label_smoothing": 0.2},
        ),
    ],
    ids=["sigmoid", "ipo", "robust"],
)
def test_one_step_is_trl_s(ours: DPO, theirs: dict[str, Any], tmp_path: Path) -> None:
    trl = pytest.importorskip("trl", reason="TRL comes with the extra benchmarks")
    datasets = pytest.importorskip("datasets")
    folder = tiny_chat_lm(tmp_path / "model")
    model, reference = load_model(folder, "preferences"), load_model(folder, "preferences")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.03 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    data = tiny_prepared(tmp_path / "rows", {"train": tiny_preferences(6)}, kind="preferences")
    path = split_file(data.path, "train")
    scores = score_rows(reference, open_split(path, ()), "fp32", lambda _: None)
    add_scores(path, path.with_name("scored.arrow"), "reference", scores)
    batch = open_split(path.with_name("scored.arrow"), ()).batch(np.arange(6), Collator.of(model))
    loss = ours.loss(model, batch)
    (loss.total / loss.count).backward()

    twin: Any = copy.deepcopy(model)
    twin.zero_grad()
    args = trl.DPOConfig(output_dir=str(tmp_path / "trl"), use_cpu=True, bf16=False, report_to="none", **theirs)
    rows = datasets.Dataset.from_list(tiny_preferences(6))
    from ftlib.kinds.loading import load_tokenizer

    trainer = trl.DPOTrainer(
        twin, ref_model=reference, args=args, train_dataset=rows, processing_class=load_tokenizer(folder)
    )
    assert batch.targets is not None
    width = batch.inputs["input_ids"].shape[1]
    marks = torch.nn.functional.pad(batch.targets, (0, width - batch.targets.shape[1])).long()
    inputs = {
        name: torch.cat([of[::2], of[1::2]])  # all chosen, then all rejected
        for name, of in {**batch.inputs, "completion_mask": marks}.items()
        if name != "token_type_ids"
    }
    their_loss = trainer.compute_loss(trainer.model, inputs)
    their_loss.backward()
    assert float(loss.total / loss.count) == pytest.approx(float(their_loss), rel=1e-6, abs=1e-6)
    gradients = dict(trainer.model.named_parameters())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name].grad, parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
