"""Distillation of language models: by its formula in numpy, in parts and packs, and in whole phases."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.text_to_text import TextToText
from ftlib.data.processor import Processor
from ftlib.errors import ModelError
from ftlib.kinds import token_log_probs
from ftlib.kinds.batch import UNTAUGHT, Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.open_split import open_split
from ftlib.kinds.packing import settle_packing
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.train import TrainJob, train
from ftlib.testing import (
    tiny_checkpoint,
    tiny_lm_tokenizer,
    tiny_prepared,
    tiny_prepared_as,
    tiny_rows,
    tiny_sources,
    tiny_text_to_text,
)
from ftlib.training.compute import Compute
from ftlib.training.objectives.completion import Completion
from ftlib.training.objectives.token_distillation import CompletionDistillation, TokenDistillation
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace
from tests.ftlib.training.stopping import stopped_at


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows = [{"prompt": row["text"], "completion": f"{row['label']} and more"} for row in tiny_rows(20)]
    folder = tmp_path_factory.mktemp("data")
    return tiny_prepared(folder, {"train": rows[:16], "validation": rows[16:]}, kind="completions")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, Checkpoint]:
    """Return a student and its teacher."""
    one, two = (tiny_checkpoint(tmp_path_factory.mktemp("model"), (), seed=seed) for seed in (0, 1))
    return one, two


Asked = tuple[Any, Any, PreparedSplit, Batch]


@pytest.fixture
def asked(data: PreparedDataset, ends: tuple[Checkpoint, Checkpoint]) -> Asked:
    student, teacher = (AutoModelForCausalLM.from_pretrained(end.folder).eval() for end in ends)
    split = open_split(data.path / "train.arrow", ())
    return student, teacher.requires_grad_(False), split, split.batch(np.arange(5), Collator.of(student))


def by_hand(asked: Asked, temperature: float, soft: float, beta: float) -> float:
    student, teacher, _, batch = asked
    targets = next_tokens(batch).numpy()
    logits = [model(**batch.inputs).logits[:, :-1].detach().double().numpy() for model in (teacher, student)]

    def shares(of: np.ndarray) -> np.ndarray:
        return np.exp(of) / np.exp(of).sum(-1, keepdims=True)

    p, q = (shares(of / temperature) for of in logits)
    middle = beta * p + (1 - beta) * q

    def kl(of: np.ndarray, against: np.ndarray) -> np.ndarray:
        return (of * np.log(of / against)).sum(-1)

    ends = {0.0: kl(p, q), 1.0: kl(q, p)}
    apart = ends.get(beta, beta * kl(p, middle) + (1 - beta) * kl(q, middle))
    hard = -np.log(np.take_along_axis(shares(logits[1]), targets.clip(min=0)[..., None], -1)[..., 0])
    return float(((1 - soft) * hard + soft * temperature**2 * apart)[targets != UNTAUGHT].sum())


def said(asked: Asked, objective: TokenDistillation, batch: Batch | None = None) -> tuple[float, dict[str, Any]]:
    student, teacher = asked[:2]
    student.zero_grad()
    loss = objective.loss(student, batch or asked[3], {"teacher": teacher})
    loss.total.backward()
    return float(loss.total.detach()), {name: p.grad.clone() for name, p in student.named_parameters()}


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_it_is_the_formula_on_the_supervised_tokens_alone(asked: Asked, beta: float) -> None:
    objective = CompletionDistillation(temperature=2.0, soft=0.3, beta=beta)
    assert said(asked, objective)[0] == pytest.approx(by_hand(asked, 2.0, 0.3, beta), rel=1e-5)


def test_an_encoder_decoder_learns_by_the_same_formula_what_its_decoder_writes(tmp_path: Path) -> None:
    """Against stock models that are given each row's labels alone, and shift them by themselves."""
    rows, tokenizer = tiny_sources(5), tiny_lm_tokenizer()
    folders = [tiny_text_to_text(tmp_path / str(seed), "t5", seed=seed) for seed in (0, 1)]
    student, teacher = (AutoModelForSeq2SeqLM.from_pretrained(folder).eval() for folder in folders)
    format = TextToText(source="source", target="target", max_tokens=96, max_target_tokens=32)
    made = tiny_prepared_as(tmp_path / "data", format, {"train": rows}, Processor.of(tokenizer, decoder_start=0))
    batch = open_split(made.path / "train.arrow", ()).batch(np.arange(5), Collator.of(student))
    total = 0.0
    for row in rows:
        source = tokenizer(row["source"], return_tensors="pt")["input_ids"]
        labels = tokenizer(text_target=row["target"], return_tensors="pt")["input_ids"]
        p, q, plain = (
            (model(input_ids=source, labels=labels).logits[0].detach().double() / by).softmax(-1).numpy()
            for model, by in ((teacher, 2.0), (student, 2.0), (student, 1.0))
        )
        middle = 0.3 * p + 0.7 * q
        apart = (0.3 * p * np.log(p / middle) + 0.7 * q * np.log(q / middle)).sum(-1)
        hard = -np.log(plain[np.arange(labels.shape[1]), labels[0].numpy()])
        total += float((0.7 * hard + 0.3 * 4.0 * apart).sum())
    objective = CompletionDistillation(temperature=2.0, soft=0.3, beta=0.3)
    ours = objective.loss(student, batch, {"teacher": teacher.requires_grad_(False)})
    assert float(ours.total.detach()) == pytest.approx(total, rel=1e-5)


def test_a_student_that_is_its_teacher_has_nothing_to_learn_and_without_soft_it_is_cross_entropy(asked: Asked) -> None:
    student, teacher, _, batch = asked
    own = CompletionDistillation(soft=1.0).loss(student, batch, {"teacher": student})
    assert float(own.total.detach()) == pytest.approx(0.0, abs=1e-5)
    hard = CompletionDistillation(soft=0.0).loss(student, batch, {"teacher": teacher})
    plain = Completion().loss(student, batch)
    assert float(hard.total.detach()) == pytest.approx(float(plain.total.detach()), rel=1e-6)
    assert int(hard.count) == int(plain.count) == int(batch.supervised.sum())


def test_at_a_high_temperature_the_gradient_is_that_of_matching_logits(asked: Asked) -> None:
    """Hinton et al., equation 4: (z - v) / words, of logits without their means."""
    _, teacher, _, batch = asked
    logits = torch.randn(*batch.inputs["input_ids"].shape, teacher.config.vocab_size, requires_grad=True)

    def student(**_: Any) -> Any:
        return SimpleNamespace(logits=logits)

    CompletionDistillation(temperature=300.0, soft=1.0).loss(student, batch, {"teacher": teacher}).total.backward()
    z, v = logits.detach()[:, :-1], teacher(**batch.inputs).logits[:, :-1]
    apart = (z - z.mean(-1, keepdim=True)) - (v - v.mean(-1, keepdim=True))
    where = next_tokens(batch) != UNTAUGHT
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[:, :-1][where] * z.shape[-1], apart[where], rtol=0.05, atol=0.05)
    assert not logits.grad[:, :-1][~where].any()


def test_parts_packs_and_splits_of_a_batch_change_nothing(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher, split, _ = asked
    objective = CompletionDistillation(temperature=2.0, beta=0.3)
    expected, gradients = said(asked, objective)

    def check(total: float, of: dict[str, Any]) -> None:
        assert total == pytest.approx(expected, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(of[name], gradient, rtol=1e-3, atol=1e-6)

    collate = Collator.of(student)
    pieces = [said(asked, objective, split.batch(rows, collate)) for rows in (np.arange(2), np.arange(2, 5))]
    check(sum(total for total, _ in pieces), {name: sum(of[name] for _, of in pieces) for name in gradients})
    monkeypatch.setattr(token_log_probs, "WHOLE", 0)
    monkeypatch.setattr(token_log_probs, "PART", 3 * 4 * student.config.vocab_size)
    check(*said(asked, objective))
    for model in (student, teacher):
        settle_packing(model, split, collate, 500)
    check(*said(asked, objective, split.pack(np.arange(5), collate)))


def job(ends: tuple[Checkpoint, Checkpoint], data: PreparedDataset, **changes: Any) -> TrainJob:
    compute = {"workers": 0, "threads": 1, **changes.pop("compute", {})}
    phase = Phase.model_validate(
        {
            "name": "tune",
            "dataset": "d",
            "objective": {"kind": "completion_distillation", "temperature": 2.0},
            "tuning": {"kind": "lora", "rank": 2},
            "optimizer": {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8},
            "dropout": 0.0,
            **changes,
        }
    )
    return TrainJob(
        start=ends[0],
        data=data,
        phase=phase,
        precision="fp32",
        seed=7,
        compute=Compute.model_validate(compute),
        companions={"teacher": ends[1]},
    )


def test_a_lora_student_comes_nearer_to_its_teacher_and_resumes_to_the_bit(
    asked: Asked, data: PreparedDataset, ends: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    whole = train(job(ends, data), Workspace(tmp_path / "whole"))
    with stopped_at(2):
        train(job(ends, data), Workspace(tmp_path / "stopped"))
    resumed = train(job(ends, data), Workspace(tmp_path / "stopped"))
    assert (resumed.facts["resumed_from_step"], resumed.weights) == (2, whole.weights)
    after = AutoModelForCausalLM.from_pretrained(whole.folder).eval()
    objective, beside = CompletionDistillation(temperature=2.0), {"teacher": asked[1]}
    before, now = (float(objective.loss(m, asked[3], beside).total.detach()) for m in (asked[0], after))
    assert now < before


def test_a_teacher_of_another_vocabulary_is_refused(
    data: PreparedDataset, ends: tuple[Checkpoint, Checkpoint], tmp_path: Path
) -> None:
    teacher = AutoModelForCausalLM.from_pretrained(ends[1].folder)
    teacher.resize_token_embeddings(teacher.config.vocab_size + 8)
    teacher.save_pretrained(tmp_path / "model")
    other = ends[1].model_copy(update={"uri": str(tmp_path), "weights": "other"})
    with pytest.raises(ModelError, match=r"its vocabulary has 2.. words, the model's 2.., and answers are compared"):
        train(job((ends[0], other), data), Workspace(tmp_path / "work"))
