"""Which head training starts from: one that knows the answer already is kept, and no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.kinds.loading import load_model
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, base
from ftlib.testing import tiny_classifier, tiny_detector
from ftlib.workspace import Workspace

HAS = ("x", "y", "z")
HEADS = ("cla", "bbo")
"""How the names of the heads' modules begin."""


def made(model: Path, kind: BatchKind, labels: tuple[str, ...], seed: int, root: Path) -> Checkpoint:
    job = BaseJob(model=find_model(ModelRef(path=str(model))), kind=kind, labels=labels, seed=seed)
    return base(job, Workspace(root))


def head(folder: Path, kind: BatchKind) -> torch.Tensor:
    model: Any = load_model(folder, kind)
    return model.classifier.weight


@pytest.mark.parametrize(
    ("kind", "labels", "kept"),
    [
        ("labeled", ("x", "y", "z"), True),
        ("labeled", ("z", "x", "y"), True),
        ("labeled", ("a", "b", "c"), False),
        ("labeled", ("x", "y"), False),
        ("multi_labeled", ("x", "y", "z"), False),
        ("scored", (), False),
    ],
)
def test_a_classifiers_head_is_kept_for_its_own_labels_alone(
    tmp_path: Path, kind: BatchKind, labels: tuple[str, ...], kept: bool
) -> None:
    folder = tiny_classifier(tmp_path / "tiny", HAS)
    start = made(folder, kind, labels, 3, tmp_path)
    before, after = head(folder, "labeled"), head(start.path / "model", kind)
    assert start.fresh_head is not kept
    assert start.labels == (HAS if kept else labels)
    assert (before.shape == after.shape and torch.equal(before, after)) is kept
    body = "bert.encoder.layer.0.attention.self.query.weight"
    one, other = (load_model(path, of).state_dict() for path, of in ((folder, "labeled"), (start.path / "model", kind)))
    assert torch.equal(one[body], other[body])


@pytest.mark.parametrize(("kind", "labels"), [("labeled", HAS), ("multi_labeled", HAS), ("scored", ())])
def test_what_was_trained_here_is_a_base_model_with_a_head(
    tmp_path: Path, kind: BatchKind, labels: tuple[str, ...]
) -> None:
    first = made(tiny_classifier(tmp_path / "bare"), kind, labels, 3, tmp_path)
    again = made(first.path / "model", kind, labels, 4, tmp_path)
    assert first.fresh_head
    assert not again.fresh_head
    assert again.weights == first.weights


def test_one_seed_makes_one_head(tmp_path: Path) -> None:
    folder = tiny_classifier(tmp_path / "tiny", HAS)
    heads = [
        head(made(folder, "labeled", ("a", "b", "c"), seed, tmp_path / name).path / "model", "labeled")
        for name, seed in (("one", 3), ("same", 3), ("other", 4))
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_detector_says_new_labels_with_the_boxes_it_knows(tmp_path: Path) -> None:
    detector = tiny_detector(tmp_path / "detector")
    before = load_file(detector / "model.safetensors")
    checkpoint = made(detector, "boxed_images", ("a", "b", "c"), 0, tmp_path)
    after = {
        name: tensor.detach()
        for name, tensor in load_model(checkpoint.path / "model", "boxed_images").named_parameters()
    }
    moved = {
        name for name, tensor in after.items() if before[name].shape != tensor.shape or (before[name] != tensor).any()
    }
    assert moved == {f"class_labels_classifier.layers.{i}.{what}" for i in range(3) for what in ("weight", "bias")} - {
        f"class_labels_classifier.layers.{i}.bias"
        for i in range(2)  # zero both times
    }
    assert checkpoint.fresh_head


@pytest.mark.parametrize(("write", "kind"), [(tiny_detector, "boxed_images"), (tiny_classifier, "labeled")])
def test_a_model_without_a_tensor_of_its_body_is_refused(tmp_path: Path, write: Any, kind: BatchKind) -> None:
    tensors = load_file((model := write(tmp_path / "model")) / "model.safetensors")
    lost = next(name for name in sorted(tensors) if re.search(r"layers?\.1\..*weight", name) and name[:3] not in HEADS)
    del tensors[lost]
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks tensors of its own architecture: "):
        made(model, kind, ("a", "b"), 0, tmp_path)
