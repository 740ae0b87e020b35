"""DPO, KTO, ORPO and SimPO against their formulas in numpy, from log-probabilities that stock transformers computes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from ftlib.config import BatchKind
from ftlib.data.prepared import add_scores, split_file
from ftlib.errors import TrainingError
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import load_model
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.testing import tiny_chat_lm, tiny_preferences, tiny_prepared, tiny_thumbs
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.attempt import Sums
from ftlib.training.loops.first_loss import check_first_loss
from ftlib.training.objectives.dpo import DPO
from ftlib.training.objectives.kto import KTO
from ftlib.training.objectives.orpo import ORPO
from ftlib.training.objectives.simpo import SimPO

ROWS = np.array([3, 0, 5, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("preferences")
    tiny_chat_lm(made / "model")
    return made


def split_of(folder: Path, kind: BatchKind, scores: np.ndarray | None = None) -> PreparedSplit:
    rows: Any = {"train": (tiny_preferences if kind == "preferences" else tiny_thumbs)(8)}
    data = tiny_prepared(folder / kind, rows, kind=kind)
    path = split_file(data.path, "train")
    if scores is not None:
        add_scores(path, path.with_name("scored.arrow"), "reference", scores.astype(np.float32))
        path = path.with_name("scored.arrow")
    return open_split(path, ())


def stock(model: nn.Module, ids: np.ndarray, first: int) -> tuple[float, int]:
    """Return log p of the tokens from `first` on, of one sequence without padding, and how many they are."""
    with torch.no_grad():
        said = model(input_ids=torch.tensor(ids[None])).logits[0].double().log_softmax(-1).numpy()
    return sum(said[i - 1, ids[i]] for i in range(first, len(ids))), len(ids) - first


def pairs(model: nn.Module, split: PreparedSplit) -> tuple[np.ndarray, np.ndarray]:
    sums, tokens = np.zeros((len(split), 2)), np.zeros((len(split), 2))
    for row in range(len(split)):
        first, start, other, _ = split.targets.places[row]  # type: ignore[union-attr]
        ids = split.tokens(row)
        for i, (one, begins) in enumerate(((ids[:start], first), (ids[start:], other - start))):
            sums[row, i], tokens[row, i] = stock(model, one, begins)
    return sums, tokens


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def beside(objective: Any, model: nn.Module, split: PreparedSplit, micro: int | None = None) -> dict[str, float]:
    """Return what curves say beside the loss, of the same rows."""
    group = Group(rank=0, world_size=1, device=torch.device("cpu"))
    asking = Asking(objective, model, Collator.of(model), group, companions={}, micro_batch_size=micro)
    sums = Sums(torch.zeros((), dtype=torch.float64))
    for piece in asking.pieces(split, ROWS)[0]:
        sums.add(asking.loss(split, piece), 1.0)
    return {name: float(total / of) for name, (total, of) in sums.beside.items()}


def asked(objective: Any, model: nn.Module, split: PreparedSplit, micro: int | None = None) -> float:
    group = Group(rank=0, world_size=1, device=torch.device("cpu"))
    asking = Asking(objective, model, Collator.of(model), group, companions={}, micro_batch_size=micro)
    pieces, count = asking.pieces(split, ROWS)
    assert count == len(ROWS)
    return sum(float(asking.loss(split, piece).total) for piece in pieces) / count


@pytest.mark.parametrize(
    "objective",
    [
        DPO(),
        DPO(beta=0.5, length_normalised=True),
        DPO(loss_type="ipo", beta=0.2),
        DPO(loss_type="robust", label_smoothing=0.2),
        ORPO(beta=0.3),
        SimPO(beta=2.5, margin=0.7),
    ],
    ids=["dpo", "normalised", "ipo", "robust", "orpo", "simpo"],
)
def test_losses_of_pairs_are_their_formulas(objective: Any, folder: Path) -> None:
    reference = np.random.default_rng(0).normal(-50, 5, (8, 2))
    split, model = split_of(folder, "preferences", reference), load_model(folder / "model", "preferences")
    sums, tokens = pairs(AutoModelForCausalLM.from_pretrained(folder / "model"), split)
    d = np.diff(-(sums - reference.astype(np.float32)))[:, 0]
    l = sums / tokens  # noqa: E741
    odds = np.exp(l) / (1 - np.exp(l))
    expected = {
        "dpo": lambda: -np.log(sigmoid(0.1 * d)),
        "normalised": lambda: -np.log(sigmoid(0.5 * np.diff(-(sums - reference.astype(np.float32)) / tokens)[:, 0])),
        "ipo": lambda: (np.diff(-(sums - reference.astype(np.float32)) / tokens)[:, 0] - 1 / 0.4) ** 2,
        "robust": lambda: (-0.8 * np.log(sigmoid(0.1 * d)) + 0.2 * np.log(sigmoid(-0.1 * d))) / 0.6,
        "orpo": lambda: -l[:, 0] - 0.3 * np.log(sigmoid(np.log(odds[:, 0]) - np.log(odds[:, 1]))),
        "simpo": lambda: -np.log(sigmoid(2.5 * (l[:, 0] - l[:, 1]) - 0.7)),
    }
    named = {"ipo": "ipo", "robust": "robust"}.get(getattr(objective, "loss_type", ""), objective.kind)
    named = "normalised" if getattr(objective, "length_normalised", None) else named
    for micro in (None, 1):
        assert asked(objective, model, split, micro) == pytest.approx(expected[named]()[ROWS].mean(), rel=1e-6)
        said = beside(objective, model, split, micro)
        if isinstance(objective, DPO):
            rewards = (sums - reference.astype(np.float32)) / (tokens if named in ("ipo", "normalised") else 1)
            margins = (rewards[:, 0] - rewards[:, 1])[ROWS]
            assert said["chosen_reward"] == pytest.approx(rewards[ROWS, 0].mean(), rel=1e-5)
            assert said["rejected_reward"] == pytest.approx(rewards[ROWS, 1].mean(), rel=1e-5)
            assert said["reward_margin"] == pytest.approx(margins.mean(), rel=1e-5)
            assert said["reward_accuracy"] == (margins > 0).mean()
        else:
            margins = (l[:, 0] - l[:, 1])[ROWS]
            assert said["margin_per_token"] == pytest.approx(margins.mean(), rel=1e-5)
            assert said["preference_accuracy"] == (margins > 0).mean()


def test_kto_compares_with_answers_to_other_prompts(folder: Path) -> None:
    """z0 is the mean over the batch, and of one that is negative nothing is left."""
    split = split_of(folder, "judged")
    model, plain = load_model(folder / "model", "judged"), AutoModelForCausalLM.from_pretrained(folder / "model")
    targets: Any = split.targets
    own, others, prompts = np.zeros(8), np.zeros(8), [bytes(targets._prompt(row)) for row in range(8)]
    for row in range(8):
        first = targets._firsts[row]
        own[row], _ = stock(plain, split.tokens(row), first)
        others[row], _ = stock(plain, targets._mismatched(row), first)
    assert all(prompts[row] != prompts[other] for row, other in enumerate(targets.others))
    wanted, objective = targets.wanted, KTO(beta=0.2, desirable=1.5, undesirable=0.5)
    for shift in (3.0, -3.0):
        noise = np.random.default_rng(1).normal(size=(8, 2))
        reference = (np.stack([own, others], 1) - shift - noise).astype(np.float32)
        rewards, z0 = own - reference[:, 0], max(0.0, float((others - reference[:, 1])[ROWS].mean()))
        assert (z0 > 0) == (shift > 0)
        gains = np.where(wanted, rewards - z0, z0 - rewards)
        expected = (np.where(wanted, 1.5, 0.5) * (1 - sigmoid(0.2 * gains)))[ROWS].mean()
        scored = split_of(folder, "judged", reference)
        for micro in (None, 1, 3):
            assert asked(objective, model, scored, micro) == pytest.approx(expected, rel=1e-5)
            said = beside(objective, model, scored, micro)
            assert said["wanted_reward"] == pytest.approx(rewards[ROWS][wanted[ROWS]].mean(), rel=1e-4)
            assert said["unwanted_reward"] == pytest.approx(rewards[ROWS][~wanted[ROWS]].mean(), rel=1e-4)
            assert said["z0"] == pytest.approx(z0, rel=1e-4)


def summed(model: nn.Module, ids: np.ndarray, first: int) -> torch.Tensor:
    """As `stock`, with its gradient."""
    logs = model(input_ids=torch.tensor(ids[None])).logits[0].double().log_softmax(-1)
    return sum((logs[i - 1, int(ids[i])] for i in range(first, len(ids))), torch.zeros((), dtype=torch.float64))


def held_alike(objective: Any, ours: nn.Module, split: PreparedSplit, theirs: nn.Module, loss: torch.Tensor) -> None:
    """Hold the gradient of one step, in pieces of one row, against that of a formula in another copy of the model."""
    group = Group(rank=0, world_size=1, device=torch.device("cpu"))
    asking = Asking(objective, ours, Collator.of(ours), group, companions={}, micro_batch_size=1)
    pieces, count = asking.pieces(split, ROWS)
    for piece in pieces:
        (asking.loss(split, piece).total / count).backward()
    loss.backward()
    wanted = {name: parameter.grad for name, parameter in theirs.named_parameters() if parameter.grad is not None}
    assert max(float(of.abs().max()) for of in wanted.values()) > 1e-4
    for name, parameter in ours.named_parameters():
        if name in wanted:
            assert parameter.grad is not None, name
            torch.testing.assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("objective", "formula"),
    [
        (DPO(beta=0.5, length_normalised=True), lambda r, n, m: -F.logsigmoid(0.5 * of_pairs(r / n))),
        (DPO(loss_type="ipo", beta=0.2), lambda r, n, m: (of_pairs(r / n) - 1 / 0.4) ** 2),
        (
            DPO(loss_type="robust", label_smoothing=0.2),
            lambda r, n, m: (-0.8 * F.logsigmoid(0.1 * of_pairs(r)) + 0.2 * F.logsigmoid(-0.1 * of_pairs(r))) / 0.6,
        ),
        (
            ORPO(beta=0.3),
            lambda r, n, m: -m[:, 0] - 0.3 * F.logsigmoid(of_pairs(m - torch.log1p(-m.exp()))),
        ),
        (SimPO(beta=2.5, margin=0.7), lambda r, n, m: -F.logsigmoid(2.5 * of_pairs(m) - 0.7)),
    ],
    ids=["normalised", "ipo", "robust", "orpo", "simpo"],
)
def test_gradients_of_pairs_are_those_of_their_formulas(objective: Any, formula: Any, folder: Path) -> None:
    reference = np.random.default_rng(0).normal(-50, 5, (8, 2)).astype(np.float32)
    split, theirs = split_of(folder, "preferences", reference), AutoModelForCausalLM.from_pretrained(folder / "model")
    sums, tokens = list[torch.Tensor](), list[int]()
    for row in ROWS:
        first, start, other, _ = split.targets.places[row]  # type: ignore[union-attr]
        ids = split.tokens(row)
        for one, begins in ((ids[:start], first), (ids[start:], other - start)):
            sums.append(summed(theirs, one, begins))
            tokens.append(len(one) - begins)
    said, counts = torch.stack(sums).reshape(-1, 2), torch.tensor(tokens).reshape(-1, 2)
    loss = formula(said - torch.from_numpy(reference[ROWS]), counts, said / counts).mean()
    held_alike(objective, load_model(folder / "model", "preferences"), split, theirs, loss)


def of_pairs(values: torch.Tensor) -> torch.Tensor:
    """Return by how much the chosen answers have more."""
    return values[:, 0] - values[:, 1]


def test_the_gradient_of_kto_is_that_of_its_formula_and_z0_has_none(folder: Path) -> None:
    split, theirs = split_of(folder, "judged"), AutoModelForCausalLM.from_pretrained(folder / "model")
    targets: Any = split.targets
    others = np.array([stock(theirs, targets._mismatched(row), targets._firsts[row])[0] for row in range(8)])
    own = np.array([stock(theirs, split.tokens(row), targets._firsts[row])[0] for row in range(8)])
    noise = np.random.default_rng(1).normal(size=(8, 2))
    reference = (np.stack([own, others], 1) - 3.0 - noise).astype(np.float32)
    z0, signs = float((others - reference[:, 1])[ROWS].mean()), torch.from_numpy(np.where(targets.wanted, 1.0, -1.0))
    assert z0 > 0
    said = torch.stack([summed(theirs, split.tokens(row), targets._firsts[row]) for row in ROWS])
    gains = signs[ROWS] * (said - torch.from_numpy(reference[ROWS, 0]) - z0)
    loss = (torch.where(signs[ROWS] > 0, 1.5, 0.5) * (1 - torch.sigmoid(0.2 * gains))).mean()
    scored = split_of(folder, "judged", reference)
    objective = KTO(beta=0.2, desirable=1.5, undesirable=0.5)
    held_alike(objective, load_model(folder / "model", "judged"), scored, theirs, loss)


def test_the_gradient_of_two_words_is_the_closed_form() -> None:
    """A policy of two words that says nothing of its prompt: one logit difference moves, by -beta (1 - s) 2."""
    config = LlamaConfig(
        vocab_size=2, hidden_size=4, intermediate_size=4, num_hidden_layers=1, num_attention_heads=1, pad_token_id=0
    )
    model = LlamaForCausalLM(config)
    theta = torch.tensor([0.3, -0.2], requires_grad=True)

    def forward(input_ids: torch.Tensor, **_: Any) -> Any:
        return type("Said", (), {"logits": theta.expand(*input_ids.shape, 2)})()

    model.forward = forward  # type: ignore[method-assign]
    batch = Batch(
        inputs={"input_ids": torch.tensor([[0, 1], [0, 0]]), "attention_mask": torch.ones(2, 2, dtype=torch.long)},
        supervised=torch.tensor([1]),
        targets=torch.tensor([[False, True], [False, True]]),
        columns={"reference": torch.tensor([[-0.5, -0.9]])},
    )
    loss = DPO(beta=0.4).loss(model, batch)
    loss.total.backward()
    d = (-0.2 - 0.3) - (-0.5 + 0.9)
    assert float(loss.total) == pytest.approx(math.log1p(math.exp(-0.4 * d)), rel=1e-6)
    slope = -0.4 * (1 - 1 / (1 + math.exp(-0.4 * d)))
    assert theta.grad is not None
    assert theta.grad.tolist() == pytest.approx([-slope, slope], rel=1e-6)


def test_the_first_loss_is_ln_2_or_the_run_fails() -> None:
    class Anything:
        def __init__(self, **words: Any) -> None:
            self.__dict__ |= words

    tuning = Anything(starts_as_given=True)
    phase = Anything(name="prefer", objective=DPO(), tuning=tuning)
    plan: Any = Anything(phase=phase, scored_by_start=("reference",), precision="fp32")
    check_first_loss(plan, math.log(2) + 9e-4)
    with pytest.raises(TrainingError, match=r"prefer: the first loss of 'dpo' is 0\.6952.., and 0\.693147 \(± 0\.001"):
        check_first_loss(plan, math.log(2) + 2.1e-3)
    plan.precision = "bf16"
    check_first_loss(plan, math.log(2) + 2.1e-3)
    plan.precision, plan.scored_by_start = "fp32", ()
    check_first_loss(plan, 0.5)
    plan.scored_by_start, phase.objective = ("reference",), DPO(loss_type="ipo")
    check_first_loss(plan, 25.0)
    phase.objective, tuning.starts_as_given = DPO(), False
    check_first_loss(plan, 0.5)
