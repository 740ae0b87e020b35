"""Several heads over one body: what each task moves, against a plain loop of torch, and what a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, BertModel

from ftlib.data.datasets import PreparedDataset
from ftlib.data.iob2 import completed
from ftlib.kinds.batch import UNTAUGHT
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.merging.candidate_weights import write_candidate
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model, weight_files
from ftlib.models.reference import ModelRef
from ftlib.stages.base import BaseJob, TaskHead, base
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_classifier, tiny_prepared, tiny_rows, tiny_tagged_rows
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.loops.batches import Order
from ftlib.training.loops.by_task import minimised
from ftlib.training.mixture import Mixture
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at

TASKS = ("entities", "products", "topic")
WEIGHTS = {"entities": 1.0, "products": 2.0, "topic": 0.5}
RATE = 1e-2


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, PreparedDataset]:
    folder = tmp_path_factory.mktemp("data")
    entities, products, topics = tiny_tagged_rows(28), tiny_tagged_rows(28, seed=3), tiny_rows(28)
    return {
        "entities": tiny_prepared(
            folder / "entities", {"train": entities[:20], "validation": entities[20:]}, kind="tagged"
        ),
        "products": tiny_prepared(
            folder / "products", {"train": products[:20], "validation": products[20:]}, kind="tagged"
        ),
        "topic": tiny_prepared(folder / "topic", {"train": topics[:20], "validation": topics[20:]}),
    }


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, parts: Mapping[str, PreparedDataset]) -> Checkpoint:
    folder = tmp_path_factory.mktemp("start")
    model = find_model(ModelRef(path=str(tiny_classifier(folder / "model"))))
    heads = {
        task: TaskHead(kind=part.kind, labels=completed(part.labels) if part.kind == "tagged" else part.labels)
        for task, part in parts.items()
    }
    job = BaseJob(model=model, kind="tagged", labels=(), seed=1, tasks=heads)
    made = base(job, Workspace(folder / "work"))
    return made.model_copy(update={"tokenizer": "tiny"})  # as `tiny_prepared` calls it


def job_of(
    start: Checkpoint,
    parts: Mapping[str, PreparedDataset],
    weights: Mapping[str, float] | None = None,
    *,
    kept: str | None = None,
    phase: Mapping[str, object] | None = None,
    **compute: object,
) -> TrainJob:
    """Return a phase of these tasks; `kept` alone is one task as a recipe without tasks would have it."""
    mixture = {"dataset": kept} if kept else {"mixture": weights or dict.fromkeys(parts, 1.0)}
    tasks = {task: {"weight": weight} for task, weight in WEIGHTS.items()}
    tasks["topic"]["objective"] = {"kind": "classification"}  # pyright: ignore[reportArgumentType]
    asked: dict[str, object] = {
        "name": "tune",
        **mixture,
        "objective": {"kind": "token_classification"},
        "tasks": tasks,
        "tuning": {"kind": "full"},
        "optimizer": {"learning_rate": RATE, "epochs": 1, "batch_size": 8, "schedule": "constant", "warmup": 0.0},
        "dropout": 0.0,
        **(phase or {}),
    }
    made = Phase.model_validate(asked)
    data = [parts[name] for name in made.parts]
    return TrainJob(
        start=start,
        data=data[0] if len(data) == 1 else Mixture(parts=tuple(data)),
        tasks=tuple(made.parts) if start.tasks else (),
        phase=made,
        precision="fp32",
        seed=7,
        compute=Compute.model_validate({"workers": 0, "threads": 1, **compute}),
    )


@pytest.mark.slow
def test_l2_sp_pulls_a_head_that_was_trained_to_its_start_and_a_fresh_one_to_zero(
    start: Checkpoint, parts: Mapping[str, PreparedDataset], tmp_path: Path
) -> None:
    """The topic's head was trained by a phase before, alone; the other two are as random as they were made."""
    first = train(job_of(start, parts, kept="topic"), Workspace(tmp_path))
    assert [task.fresh_head for task in first.tasks] == [True, True, False]
    plain, pulled = (
        train(job_of(first, parts, phase={"penalty": penalty}), Workspace(tmp_path))
        for penalty in (None, {"kind": "l2_sp", "alpha": 30.0, "beta": 30.0})
    )
    begun, free, held = (
        {task: tensors(one, task)["classifier.weight"] for task in TASKS} for one in (first, plain, pulled)
    )
    assert (held["topic"] - begun["topic"]).norm() < 0.5 * (free["topic"] - begun["topic"]).norm()
    for task in ("entities", "products"):
        assert held[task].norm() < 0.9 * free[task].norm()
        assert (held[task] - begun[task]).norm() > 0.1 * begun[task].norm()


@pytest.fixture(scope="module")
def done(
    tmp_path_factory: pytest.TempPathFactory, start: Checkpoint, parts: Mapping[str, PreparedDataset]
) -> Checkpoint:
    return train(job_of(start, parts), Workspace(tmp_path_factory.mktemp("done")))


def tensors(checkpoint: Checkpoint, task: str) -> dict[str, torch.Tensor]:
    kind = next(one.kind for one in checkpoint.tasks if one.name == task)
    return {name: tensor.clone() for name, tensor in load(checkpoint.of_task(task), kind).state_dict().items()}


def test_three_heads_over_one_body_learn_as_a_plain_loop_of_torch_teaches_them(
    start: Checkpoint, done: Checkpoint, parts: Mapping[str, PreparedDataset]
) -> None:
    body = BertModel.from_pretrained(start.of_task("topic").folder)  # with its pooler
    heads = {task: nn.Linear(*reversed(tensors(start, task)["classifier.weight"].shape)) for task in TASKS}
    for task, head in heads.items():
        was = tensors(start, task)
        head.load_state_dict({"weight": was["classifier.weight"], "bias": was["classifier.bias"]})
    everything = [*body.parameters(), *(p for head in heads.values() for p in head.parameters())]
    groups = [
        {"params": [p for p in everything if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [p for p in everything if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    splits = {task: open_split(part.path / "train.arrow", start.of_task(task).labels) for task, part in parts.items()}
    order = Order([split.sizes for split in splits.values()], [1 / 3] * 3, 8, 7)
    collate, losses = Collator.of(body), list[float]()
    body.eval()  # as without dropout
    for step in range(order.steps_per_epoch):
        batch = order.at(step)
        task = TASKS[batch.part]
        rows = splits[task].batch(batch.rows, collate)
        said: Any = body(**rows.inputs)
        assert rows.targets is not None
        if task == "topic":
            loss = nn.functional.cross_entropy(heads[task](said.pooler_output), rows.targets)
        else:
            logits = heads[task](said.last_hidden_state).flatten(0, 1)
            loss = nn.functional.cross_entropy(logits, rows.targets.flatten(), ignore_index=UNTAUGHT)
        losses.append(WEIGHTS[task] * float(loss.detach()))
        (WEIGHTS[task] * loss).backward()
        nn.utils.clip_grad_norm_([p for p in everything if p.grad is not None], 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    ours = [record["loss"] for record in curves.read(done.path / curves.FILE) if "loss" in record]
    assert ours == pytest.approx(losses, rel=1e-4)
    for task, head in heads.items():
        now = tensors(done, task)
        assert torch.allclose(now["classifier.weight"], head.weight, atol=1e-4)
        for name, value in body.state_dict().items():
            if f"bert.{name}" in now and not name.endswith("key.bias"):  # it has no gradient but rounding
                assert torch.allclose(now[f"bert.{name}"], value, atol=2e-4), name


def test_a_task_s_labels_are_weighed_by_its_own_names(start: Checkpoint, parts: Mapping[str, PreparedDataset]) -> None:
    """The first task's model, whose config stands for all of the body, has other labels."""
    topic = {"kind": "classification", "focus": 2.0, "label_weights": {"sales": 3.0}}
    phase = job_of(start, parts).phase
    asked = Phase.model_validate({**phase.model_dump(), "tasks": {"topic": {"weight": 0.5, "objective": topic}}})
    split = open_split(parts["topic"].path / "train.arrow", start.of_task("topic").labels, "topic")
    model: Any = load(start, "tagged")
    batch = split.batch(range(8), Collator.of(model.get_submodule("task:topic")))
    ours = minimised(asked, [split]).loss(model, batch)
    stock = AutoModelForSequenceClassification.from_pretrained(start.of_task("topic").folder).eval()
    assert batch.targets is not None
    chances = stock(**batch.inputs).logits.softmax(-1)[torch.arange(8), batch.targets]
    weights = torch.ones(3)
    weights[stock.config.label2id["sales"]] = 3.0
    expected = 0.5 * (weights[batch.targets] * (1 - chances) ** 2 * -chances.log()).sum()
    torch.testing.assert_close(ours.total, expected)


@pytest.mark.slow
def test_a_phase_of_one_task_moves_its_head_and_the_body_as_if_it_were_alone(
    start: Checkpoint, parts: Mapping[str, PreparedDataset], tmp_path: Path
) -> None:
    lone = {"topic": {"objective": {"kind": "classification"}}}
    asked = {"tasks": lone, "optimizer": {"learning_rate": RATE, "epochs": 1, "batch_size": 8}}
    of_all = train(
        job_of(start, parts, {"entities": 0.0, "products": 0.0, "topic": 1.0}, phase=asked), Workspace(tmp_path / "all")
    )
    alone = {**asked, "tasks": {}, "objective": {"kind": "classification"}}
    stock = train(job_of(start.of_task("topic"), parts, kept="topic", phase=alone), Workspace(tmp_path / "alone"))
    assert of_all.of_task("topic").weights == stock.weights  # to the bit
    before, after = tensors(start, "entities"), tensors(of_all, "entities")
    assert of_all.fresh_head
    assert {task for task in TASKS if of_all.of_task(task).fresh_head} == {"entities", "products"}
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {"classifier.weight", "classifier.bias"} | {name for name in before if "position_ids" in name}


def test_every_task_moves_the_body_and_no_other_head(
    start: Checkpoint, done: Checkpoint, parts: Mapping[str, PreparedDataset]
) -> None:
    for task in TASKS:
        before, after = tensors(start, task), tensors(done, task)
        assert not any(torch.equal(before[name], after[name]) for name in before)
        assert torch.equal(after["bert.encoder.layer.0.output.dense.weight"], body_of(done))
    assert done.fresh_head is False
    assert done.parent == start.weights
    assert done.parameters == done.trained_parameters == start.parameters


def body_of(checkpoint: Checkpoint) -> torch.Tensor:
    return tensors(checkpoint, "topic")["bert.encoder.layer.0.output.dense.weight"]


def test_the_body_is_one_file_and_each_folder_is_stock(done: Checkpoint, parts: Mapping[str, PreparedDataset]) -> None:
    files = {task: weight_files(done.of_task(task).folder) for task in TASKS}
    assert len({shards[0].stat().st_ino for shards in files.values()}) == 1
    assert len({shards[0].read_bytes() for shards in files.values()}) == 1
    assert len({shards[1].stat().st_ino for shards in files.values()}) == 3
    for task, part in parts.items():
        loader = AutoModelForSequenceClassification if task == "topic" else AutoModelForTokenClassification
        stock = loader.from_pretrained(done.of_task(task).folder).eval()
        assert [*stock.config.id2label.values()] == [*done.of_task(task).labels]
        split = open_split(part.path / "validation.arrow", done.of_task(task).labels)
        batch = split.batch(np.arange(len(split)), Collator.of(stock))
        with torch.no_grad():
            mean = float(stock(**batch.inputs, labels=batch.targets).loss)
        last = curves.read(done.path / curves.FILE)[-1]
        assert last[f"validation_loss:{task}"] == pytest.approx(WEIGHTS[task] * mean, rel=1e-4)
    assert last["validation_loss"] == pytest.approx(np.mean([last[f"validation_loss:{task}"] for task in TASKS]))


def test_a_mix_is_of_the_body_and_each_head(start: Checkpoint, done: Checkpoint, tmp_path: Path) -> None:
    tasks = tuple(task.model_copy(update={"fresh_head": False}) for task in start.tasks)
    settled = start.model_copy(update={"fresh_head": False, "tasks": tasks})
    mix = Candidate.between(settled, done, 0.25)
    for task in TASKS:
        write_candidate(mix.of_task(task), tmp_path / task)
        theta0, theta1 = tensors(start, task), tensors(done, task)
        loader = AutoModelForSequenceClassification if task == "topic" else AutoModelForTokenClassification
        for name, value in loader.from_pretrained(tmp_path / task).state_dict().items():
            assert torch.allclose(value, 0.75 * theta0[name] + 0.25 * theta1[name], atol=1e-6), name


@pytest.mark.slow
def test_tasks_resume_to_the_bit_and_do_not_depend_on_how_a_batch_is_split(
    start: Checkpoint, done: Checkpoint, parts: Mapping[str, PreparedDataset], tmp_path: Path
) -> None:
    job = job_of(start, parts)
    with stopped_at(4):
        train(job, Workspace(tmp_path / "stopped"))
    resumed = train(job, Workspace(tmp_path / "stopped"))
    assert resumed.facts["resumed_from_step"] == 4
    assert resumed.weights == done.weights
    split = train(job_of(start, parts, micro_batch_size=3), Workspace(tmp_path / "split"))
    for task in TASKS:
        for name, value in tensors(done, task).items():
            assert torch.allclose(value, tensors(split, task)[name], atol=2e-3), name
