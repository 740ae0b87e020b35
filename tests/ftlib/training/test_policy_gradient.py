"""Gradients of policies: exact on a bandit that can be enumerated, and each formula by hand."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from ftlib.kinds.collate import Collator
from ftlib.kinds.sampling import Sample, sample
from ftlib.training.group import Group
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.rollouts import Rollouts
from ftlib.training.objectives.grpo import GRPO
from ftlib.training.objectives.policy import START, PolicyObjective
from ftlib.training.objectives.rloo import RLOO
from ftlib.training.rewards.length import Length

WORDS, LENGTH = 2, 3
PROMPT = np.array([1, 0], np.int32)
TEXTS = [*itertools.product(range(WORDS), repeat=LENGTH)]
ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))
REWARD = Length(most=9)


def bandit(seed: int) -> Any:
    """A policy over texts of three tokens, of two words."""
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=16, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval().double()
    model.lm_head.weight.data.mul_(20)
    return model


def worths(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=len(TEXTS))


def text_log_probs(model: Any, temperature: float = 1.0) -> torch.Tensor:
    ids = torch.tensor([[*PROMPT.tolist(), *text] for text in TEXTS])
    logits = model(ids).logits[:, len(PROMPT) - 1 : -1] / temperature
    return logits.log_softmax(-1).gather(2, torch.tensor(TEXTS)[..., None])[..., 0].sum(1)


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    found = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True)
    return torch.cat(
        [torch.zeros(p.numel()) if g is None else g.flatten() for g, p in zip(found, model.parameters(), strict=True)]
    )


def answers(texts: list[tuple[int, ...]], worth: list[float]) -> Any:
    """One prompt's answers, as the loop hands them over."""
    samples = [Sample(text, (), ended=False) for text in texts]
    return Rollouts([PROMPT] * len(texts), samples, np.array(worth), len(texts)).rows()


def step(objective: PolicyObjective, model: Any, start: Any, split: Any) -> torch.Tensor:
    """The gradient of one step on a group of answers."""
    asking = Asking(objective, model, Collator.of(model), ALONE, companions={START: start})
    pieces, count = asking.pieces(split, np.arange(len(split)))
    return gradient(model, sum(asking.loss(split, piece).total for piece in pieces) / count)


def expected_step(objective: PolicyObjective, model: Any, start: Any) -> torch.Tensor:
    """The mean over all pairs of answers, each as probable as the policy makes it."""
    shares, worth = text_log_probs(model, objective.temperature).exp().detach(), worths()
    total = torch.zeros(())
    for i, j in itertools.product(range(len(TEXTS)), repeat=2):
        split = answers([TEXTS[i], TEXTS[j]], [worth[i], worth[j]])
        total = total + shares[i] * shares[j] * step(objective, model, start, split)
    return total


@pytest.mark.parametrize("beta", [pytest.param(0.0, marks=pytest.mark.slow), 0.3])
def test_the_expected_step_of_rloo_is_the_exact_gradient_of_reward_less_kl(beta: float) -> None:
    model, start = bandit(0), bandit(1)
    objective = RLOO(reward=REWARD, group_size=2, max_new_tokens=LENGTH, beta=beta, temperature=0.8)
    logs = text_log_probs(model, 0.8)
    apart = logs - text_log_probs(start, 0.8).detach()
    goal = (logs.exp() * (torch.from_numpy(worths()) - beta * apart)).sum()
    exact = -gradient(model, goal)
    assert exact.norm() > 1e-3
    torch.testing.assert_close(expected_step(objective, model, start).double(), exact, rtol=1e-4, atol=1e-6)


def test_the_expected_step_of_dr_grpo_is_the_exact_gradient_but_for_its_own_share_of_the_mean() -> None:
    """The mean of the group has the answer itself in it: (n - 1) / n of the gradient, here over `max_new_tokens`."""
    model, start = bandit(0), bandit(1)
    objective = GRPO(reward=REWARD, group_size=2, max_new_tokens=LENGTH, normaliser="dr_grpo")
    exact = -gradient(model, (text_log_probs(model).exp() * torch.from_numpy(worths())).sum())
    expected = exact / 2 / LENGTH
    torch.testing.assert_close(expected_step(objective, model, start).double(), expected, rtol=1e-4, atol=1e-6)


def by_hand(
    objective: GRPO, now: Any, before: Any, start: Any, texts: list[tuple[int, ...]], worth: list[float]
) -> Any:
    """The loss of one group, text by text and token by token, as the papers write it."""
    reward = np.array(worth)
    advantages = reward - reward.mean()
    if objective.normaliser != "dr_grpo":
        advantages = advantages / (reward.std(ddof=1) + objective.std_epsilon)
    rows: list[list[torch.Tensor]] = []
    for text, advantage in zip(texts, advantages, strict=True):
        ids = torch.tensor([[*PROMPT.tolist(), *text]])

        def logs(model: Any, ids: torch.Tensor = ids, text: tuple[int, ...] = text) -> torch.Tensor:
            logits = model(ids).logits[0, len(PROMPT) - 1 : -1] / objective.temperature
            return logits.log_softmax(-1)[range(len(text)), text]

        ratio = (logs(now) - logs(before).detach()).exp()
        clipped = ratio.clamp(1 - objective.clip, 1 + objective.clip)
        away = logs(start).detach() - logs(now)
        k3 = away.exp() - away - 1
        gain = torch.minimum(ratio * float(advantage), clipped * float(advantage))
        rows.append([*(-(gain - objective.beta * k3))])
    if objective.normaliser == "grpo":
        return sum(sum(row) / len(row) for row in rows) / len(rows)
    if objective.normaliser == "dr_grpo":
        return sum(sum(row) for row in rows) / (len(rows) * objective.max_new_tokens)
    return sum(sum(row) for row in rows) / sum(map(len, rows))


@pytest.mark.parametrize("normaliser", ["grpo", "dr_grpo", "dapo"])
def test_a_later_update_of_grpo_is_the_papers_formula(normaliser: Any) -> None:
    """Answers of three lengths; the model has moved since they were drawn, far enough to be clipped."""
    objective = GRPO(
        reward=REWARD, group_size=4, max_new_tokens=5, normaliser=normaliser, beta=0.2, updates=2, temperature=1.2
    )
    texts, worth = [(0, 1, 1), (1,), (0, 0), (1, 0, 1)], [0.3, -1.0, 2.0, 0.1]
    before, start, now = bandit(0), bandit(1), bandit(0)
    asking = Asking(objective, now, Collator.of(now), ALONE, companions={START: start})
    split = answers(texts, worth)
    pieces, count = asking.pieces(split, np.arange(4))
    with torch.no_grad():
        for parameter in now.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, dtype=parameter.dtype)
    said = [asking.loss(split, piece) for piece in pieces]
    loss = sum(one.total for one in said) / count
    assert 0 < float(said[0].measured["clipped"][0]) < float(said[0].measured["clipped"][1]) == sum(map(len, texts))
    expected = by_hand(objective, now, before, start, texts, worth)
    unclipped = by_hand(objective.model_copy(update={"clip": 0.999}), now, before, start, texts, worth)
    assert abs(float(expected.detach()) - float(unclipped.detach())) > 1e-3
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(now, loss), gradient(now, expected), rtol=1e-4, atol=1e-6)


def test_kl_and_entropy_are_those_of_every_text() -> None:
    """What is measured at the drawn answers is, on average, what all texts come to."""
    model, start = bandit(0), bandit(1)
    objective = RLOO(reward=REWARD, group_size=2, max_new_tokens=LENGTH)
    split = answers([*TEXTS], [0.0] * len(TEXTS))
    logs, others = text_log_probs(model).detach(), text_log_probs(start).detach()
    kl, entropy = (logs.exp() * (logs - others)).sum(), -(logs.exp() * logs).sum()
    asking = Asking(objective, model, Collator.of(model), ALONE, companions={START: start})
    measured = np.zeros(2)
    for row, share in enumerate(logs.exp().tolist()):
        pieces, _ = asking.pieces(split, np.array([row]))
        assert pieces[0].context is not None
        measured += share * np.array([float(pieces[0].context.sums[name]) for name in ("kl", "entropy")])
    assert measured == pytest.approx([float(kl), float(entropy)], rel=1e-5)


def test_a_group_without_signal_moves_nothing() -> None:
    model, start = bandit(0), bandit(1)
    split = answers([*TEXTS], [0.7] * len(TEXTS))
    for objective in (
        RLOO(reward=REWARD, group_size=8, beta=0.0),
        *(GRPO(reward=REWARD, group_size=8, normaliser=one) for one in ("grpo", "dr_grpo", "dapo")),
    ):
        assert step(objective, model, start, split).abs().max() < 1e-6


def test_draws_of_the_sampler_have_the_log_probabilities_that_are_learnt() -> None:
    model, start = bandit(2), bandit(3)
    objective = RLOO(reward=REWARD, group_size=4, max_new_tokens=LENGTH, temperature=0.6)
    draw = partial(sample, model, max_new_tokens=LENGTH, temperature=0.6, ends=())
    samples = draw([torch.from_numpy(PROMPT)] * 4, seeds=range(4))
    split = Rollouts([PROMPT] * 4, samples, np.arange(4.0), 4).rows()
    asking = Asking(objective, model, Collator.of(model), ALONE, companions={START: start})
    (piece,), _ = asking.pieces(split, np.arange(4))
    assert piece.context is not None
    own, _ = piece.context.kept
    assert own.tolist() == pytest.approx([term for one in samples for term in one.log_probs], abs=1e-5)
