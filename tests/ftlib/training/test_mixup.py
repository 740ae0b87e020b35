"""mixup against its formula: one share a batch, rows and labels mixed alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.testing import LABELS, tiny_checkpoint, tiny_image_classifier, tiny_prepared, tiny_rows
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.objectives.mixup import Mixup

ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))
OBJECTIVE = Mixup(alpha=0.8)


def test_texts_are_mixed_in_what_the_last_layer_reads(tmp_path: Path) -> None:
    model = load_model(tiny_checkpoint(tmp_path / "start").folder, "labeled")
    data = tiny_prepared(tmp_path / "data", {"train": tiny_rows(12)})
    split, collate, rows = open_split(data.path / "train.arrow", LABELS), Collator.of(model), np.array([4, 1, 9, 3, 7])
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    asking = Asking(OBJECTIVE, model.train(), collate, ALONE, companions={}, micro_batch_size=2)
    pieces, count = asking.pieces(split, rows, draw=(7, 2, 0))
    ours = sum(asking.loss(split, piece).total for piece in pieces)
    ours.backward()  # type: ignore[union-attr]
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    share, partners = OBJECTIVE.drawn((7, 2, 0), torch.from_numpy(rows))
    batch = split.batch(rows, collate)
    hidden = model.bert(**batch.inputs).pooler_output  # type: ignore[operator]
    logits = model.classifier(share * hidden + (1 - share) * hidden[partners])  # type: ignore[operator]
    soft = share * torch.eye(3)[batch.targets] + (1 - share) * torch.eye(3)[batch.targets[partners]]  # type: ignore[index]
    theirs = -(soft * logits.log_softmax(-1)).sum()
    theirs.backward()
    assert count == 5
    assert float(ours.detach()) == pytest.approx(float(theirs.detach()), rel=1e-5)  # type: ignore[union-attr]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-6)
    again, _ = asking.pieces(split, rows[::-1])  # a view that runs backwards, as the rehearsal has
    assert OBJECTIVE.drawn((7, 2, 0), again[0].context.rows["ids"])[0] != share  # type: ignore[union-attr]
    assert OBJECTIVE.drawn((7, 3, 0), torch.from_numpy(rows))[0] != share  # the same batch in the next epoch


def test_images_are_mixed_pixel_by_pixel_and_what_is_measured_is_not_mixed(tmp_path: Path) -> None:
    model = load_model(tiny_image_classifier(tmp_path / "vit"), "labeled_images").train()
    pixels = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels, rows = torch.tensor([0, 1, 1, 0]), np.array([3, 0, 2, 5])
    batch = Batch({"pixel_values": pixels}, torch.ones(4, dtype=torch.int64), labels, rows=rows)
    prepared = OBJECTIVE.prepare(model, batch)
    from ftlib.training.objectives.prepared import Context

    context = Context({}, None, prepared.rows, torch.arange(4))
    share, partners = OBJECTIVE.drawn((), torch.from_numpy(rows))
    torch.manual_seed(1)
    ours = OBJECTIVE.loss(model, batch, context)
    torch.manual_seed(1)
    logits = model(pixel_values=share * pixels + (1 - share) * pixels[partners]).logits
    soft = share * torch.eye(2)[labels] + (1 - share) * torch.eye(2)[labels[partners]]
    assert ours.count == 4
    assert ours.total.item() == pytest.approx(-(soft * logits.log_softmax(-1)).sum().item(), rel=1e-5)
    plain = OBJECTIVE.loss(model.eval(), batch, context).total
    stock = model(pixel_values=pixels, labels=labels).loss
    assert plain.item() / 4 == pytest.approx(stock.item(), rel=1e-5)
