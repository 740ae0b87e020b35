"""Chats end to end: the loss of stock transformers with labels, packs, what is written, what is published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats.chat import Chat
from ftlib.data.prepared import longest_prompt, split_file
from ftlib.data.processor import Processor
from ftlib.evaluation.divergence import token_divergence
from ftlib.evaluation.forward_pass import predict_split
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.completions import continued
from ftlib.kinds.next_tokens import next_tokens
from ftlib.kinds.open_split import open_split, open_splits
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.train import TrainJob, train
from ftlib.testing import tiny_chat_tokenizer, tiny_chats, tiny_checkpoint, tiny_prepared_as
from ftlib.training import curves
from ftlib.training.compute import Compute
from ftlib.training.objectives.completion import Completion
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

ROWS: Any = [row for row in tiny_chats(80) if len(row["messages"]) <= 5][:40]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedDataset:
    rows: Any = {"train": ROWS[:24], "validation": ROWS[24:30], "test": ROWS[30:]}
    format = Chat(messages="messages", max_tokens=120)
    return tiny_prepared_as(tmp_path_factory.mktemp("data"), format, rows, Processor.of(tiny_chat_tokenizer()))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return tiny_checkpoint(tmp_path_factory.mktemp("start"), labels=())


def stock(start: Checkpoint) -> Any:
    return AutoModelForCausalLM.from_pretrained(start.path / "model").eval()


def labels_of(split: Any, row: int) -> torch.Tensor:
    """Return what transformers is given: the ids, and -100 where nothing is learnt."""
    labels = torch.full((int(split.lengths[row]),), -100)
    places = split.targets.places[row]
    for first, end in zip(places[::2], places[1::2], strict=True):
        labels[first:end] = torch.tensor(split.tokens(row)[first:end]).long()
    return labels


def test_the_loss_is_that_of_stock_transformers_with_labels(data: PreparedDataset, start: Checkpoint) -> None:
    split, model = open_split(data.path / "train.arrow", ()), stock(start)
    total, count = 0.0, 0
    for row in range(len(split)):
        labels = labels_of(split, row)[None]
        with torch.no_grad():
            said = model(input_ids=torch.tensor(split.tokens(row)).long()[None], labels=labels)
        total += float(said.loss) * int((labels != -100).sum())
        count += int((labels != -100).sum())
    with torch.no_grad():
        ours = Completion().loss(model, split.batch(range(len(split)), Collator.of(model)))
    assert ours.count == count == int(split.supervised.sum())
    assert float(ours.total) == pytest.approx(total, rel=1e-5)
    assert max(len(places) for places in split.targets.places) > 2  # type: ignore[union-attr]


def test_rows_of_a_later_file_of_a_mixed_batch_have_their_own_turns(data: PreparedDataset, start: Checkpoint) -> None:
    paths = [split_file(data.path, name) for name in ("train", "test")]
    joined, collate, tokenizer = open_splits(paths, ()), Collator.of(stock(start)), tiny_chat_tokenizer()
    batch = joined.batch([29, 3], collate)
    for place, messages in enumerate((ROWS[30 + 5]["messages"], ROWS[3]["messages"])):
        ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        assert batch.inputs["input_ids"][place, : len(ids)].tolist() == ids
        answers = [one["content"] for one in messages if one["role"] == "assistant"]
        learnt = next_tokens(batch)[place]
        by_hand = [
            id
            for text in answers
            for id in [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        ]
        assert learnt[learnt != -100].tolist() == by_hand
        assert joined.targets.texts[(29, 3)[place]].as_py() == answers[-1]  # type: ignore[union-attr]


def test_a_pack_of_chats_learns_what_its_rows_learn_alone(data: PreparedDataset, start: Checkpoint) -> None:
    split, model = open_split(data.path / "train.arrow", ()), stock(start)
    rows = [3, 0, 7]
    packed, padded = split.pack(rows, Collator.of(model)), split.batch(rows, Collator.of(model))
    learnt = next_tokens(packed)
    alone = [labels_of(split, row)[1:] for row in rows]
    assert [token for token in learnt[0].tolist() if token != -100] == [
        token for row in alone for token in row.tolist() if token != -100
    ]
    with torch.no_grad():
        ours, theirs = (Completion().loss(model, batch) for batch in (packed, padded))
    assert ours.count == theirs.count
    assert float(ours.total) == pytest.approx(float(theirs.total), rel=1e-5)


@pytest.mark.slow  # test_every_objective.py and test_packing.py hold it for what chats learn by
def test_training_does_not_depend_on_the_split_of_the_batch_or_on_packing(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path
) -> None:
    optimizer = {"learning_rate": 1e-2, "epochs": 2, "batch_size": 8}
    tune = {"name": "tune", "dataset": "d", "objective": {"kind": "completion"}, "tuning": {"kind": "lora", "rank": 2}}
    phase = Phase.model_validate({**tune, "optimizer": optimizer})
    losses = []
    ways: list[dict[str, Any]] = [{}, {"micro_batch_size": 3}, {"pack_tokens": 128}]
    for i, way in enumerate(ways):
        compute = Compute(workers=0, threads=1, **way)
        job = TrainJob(start=start, data=data, phase=phase, precision="fp32", seed=7, compute=compute)
        done = train(job, Workspace(tmp_path / str(i)))
        losses.append([r["loss"] for r in curves.read(done.path / curves.FILE) if "loss" in r])
    np.testing.assert_allclose(losses[1:], [losses[0]] * 2, rtol=1e-4)
    assert losses[0][-1] < losses[0][0]


def test_outcomes_hold_the_likelihood_of_all_answers_and_what_is_written_in_place_of_the_last(
    data: PreparedDataset, start: Checkpoint
) -> None:
    split, model, tokenizer = open_split(data.path / "test.arrow", ()), stock(start), tiny_chat_tokenizer()
    found = predict_split(model, split, (), lambda: tokenizer, max_new_tokens=6)
    assert isinstance(found, CompletionOutcomes)
    assert found.references == tuple(row["messages"][-1]["content"] for row in ROWS[30:])
    answers = [[m["content"] for m in row["messages"] if m["role"] == "assistant"] for row in ROWS[30:]]
    assert found.target_bytes.tolist() == [len(" ".join(texts).encode()) for texts in answers]
    for row in (0, 4, 9):
        messages: Any = ROWS[30 + row]["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_tensors="pt")[
            "input_ids"
        ]
        (ids,) = continued(model, [prompt[0]], tokenizer, 6)
        assert found.written()[row] == tokenizer.decode(ids, skip_special_tokens=True)
        labels, ids = labels_of(split, row), torch.tensor(split.tokens(row)).long()
        with torch.no_grad():
            logs = model(input_ids=ids[None]).logits[0].double().log_softmax(-1)
        expected = -sum(float(logs[i - 1, ids[i]]) for i in range(1, len(ids)) if labels[i] != -100)
        assert found.nll[row] == pytest.approx(expected, rel=1e-5)
    prompts = [len(split.tokens(row)[: split.targets.places[row][-2]]) for row in range(len(split))]  # type: ignore[union-attr]
    assert longest_prompt(data.path / "test.arrow") == max(prompts)


def test_forgetting_is_the_divergence_on_what_is_learnt(
    data: PreparedDataset, start: Checkpoint, tmp_path: Path
) -> None:
    split, ours = open_split(data.path / "test.arrow", ()), stock(start)
    other = stock(tiny_checkpoint(tmp_path, labels=(), start=start, seed=3))
    assert token_divergence(ours, ours, split).max() == pytest.approx(0.0, abs=1e-9)
    found = token_divergence(ours, other, split)
    ids, asked = torch.tensor(split.tokens(2)).long()[None], labels_of(split, 2)[1:] != -100
    with torch.no_grad():
        p, q = (model(input_ids=ids).logits[0, :-1].double().log_softmax(-1) for model in (ours, other))
    assert found[2] == pytest.approx(float((p.exp() * (p - q)).sum(-1)[asked].sum()), rel=1e-4)


def test_an_answer_stops_at_any_of_its_ends(data: PreparedDataset, start: Checkpoint) -> None:
    split, model, tokenizer = open_split(data.path / "test.arrow", ()), stock(start), tiny_chat_tokenizer()
    prompt = torch.tensor(split.tokens(0)[: split.targets.places[0][-2]]).long()  # type: ignore[union-attr]
    (free,) = continued(model, [prompt], tokenizer, 8)
    stop = free[3]
    assert continued(model, [prompt], tokenizer, 8, ends={stop}) == [free[: free.index(stop)]]
