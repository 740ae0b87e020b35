"""What objectives have in common that learn from what the model writes itself, and from what that is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import UNTAUGHT, Batch, LossSum, sum_and_count
from ftlib.kinds.next_tokens import next_tokens
from ftlib.training.objectives.prepared import Context, Prepared
from ftlib.training.rewards import Reward

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

START = "start"
"""What the phase's start is called among the frozen models that a policy is compared with."""
WORTH, GROUP = "worth", "group"
"""The columns of rows that a policy wrote: what a row's answer is worth, and which prompt it answers."""


MEASURED = ("reward", "length", "ended", "repeated", "no_signal", "entropy", "kl")
"""What curves say of a step beside its loss: means over its answers (`entropy` over their tokens, in nats; `kl` in nats
an answer), and `no_signal`, the share of prompts whose answers are all worth the same."""


class PolicyObjective(Config, ABC):
    """A policy that learns from its own answers: several to each prompt, each worth a number.

    `policy_loop.py` draws and grades them, and hands them over as rows of completions with the columns `worth` and
    `group`. An answer's advantage says how much better it is than the others to its prompt. Rows without these columns
    count as answers of advantage 1: memory is predicted and the widest batch rehearsed on them.

    Log-probabilities are those at the temperature that answers are drawn at.
    """

    reward: Reward
    """What an answer is worth: higher is better."""
    group_size: int = Field(default=8)
    """Answers that are drawn to each prompt, and compared with each other; a step learns from `optimizer.batch_size`
    prompts times so many answers, and micro-batches count answers."""
    max_new_tokens: int = Field(default=64, gt=0)
    """How much an answer has at most, its end included; what is cut there is graded as it is."""
    temperature: float = Field(default=1.0, gt=0.0)
    """What logits are divided by before a token is drawn."""
    updates: int = Field(default=1, gt=0)
    """How many times the optimiser steps on the answers of a step. With 1 they are the model's own, and nothing is
    clipped."""
    clip: float = Field(default=0.2, gt=0.0, lt=1.0)
    """With several updates, an answer's gradient ends where its probability has moved by this factor, in the direction
    of its advantage (Schulman et al. 2017, arXiv 1707.06347)."""

    needs: ClassVar[BatchKind] = "completions"
    writes: ClassVar[bool] = True
    drops_out: ClassVar[bool] = False
    companions_answer: ClassVar[BatchKind] = "compared"

    @field_validator("group_size")
    @classmethod
    def _has_others(cls, size: int) -> int:
        if size < 2:
            raise ValueError(f"{size}: an answer is compared with the others to its prompt; draw 2 or more")
        return size

    @property
    def companions(self) -> tuple[str, ...]:
        """Return the names of the models that the reward asks, as the phase's `companions` have them."""
        return self.reward.companions

    @property
    def counts_rows(self) -> bool:
        """Say whether the loss is a mean over answers, and not over their tokens."""
        return True

    def prepare(self, model: Any, batch: Batch, companions: Mapping[str, Any]) -> Prepared:
        """Return what the model and its start say of the answers, before anything of a step is learnt.

        Summed are, over answers, the entropy in nats at their tokens, and KL(model || start) there: both of whole
        distributions, and exact. Kept are the tokens' log-probabilities by both.
        """
        import torch

        tokens, places = _answer_tokens(batch)
        own, start, entropy, divergence = self._of_tokens(model, companions[START], batch, tokens)
        of_row = torch.zeros(len(batch), dtype=torch.float64, device=tokens.device)
        apart = of_row.index_add(0, places, (own - start).double())
        sums = {"entropy": entropy.double().sum(), "kl": divergence.double().sum()}
        rows = {"apart": apart}
        if WORTH in batch.columns:
            rows |= {WORTH: batch.columns[WORTH].double(), GROUP: batch.columns[GROUP].double()}
        return Prepared(sums, rows, kept=(own, start))

    def loss(self, model: Any, batch: Batch, companions: Mapping[str, Any], context: Context) -> LossSum:
        """Return the surrogate whose gradient is the policy's, summed, and what it is a mean over."""
        assert context.places is not None
        if WORTH in context.rows:
            advantages = self.advantages(context.rows[WORTH], context.rows["apart"], context.rows[GROUP].long())
            mine = advantages[context.places].float()
        else:
            mine = batch.supervised.new_ones(len(batch)).float()
        return self._surrogate(model, batch, mine, *context.kept)

    @abstractmethod
    def advantages(
        self, worth: Float[Tensor, " answers"], apart: Float[Tensor, " answers"], group: Int[Tensor, " answers"]
    ) -> Float[Tensor, " answers"]:
        """Return how much better each answer is than the others of its group.

        `apart` is log p(answer) by the model less that by its start, in nats.
        """

    @abstractmethod
    def _surrogate(
        self,
        model: Any,
        batch: Batch,
        advantages: Float[Tensor, " rows"],
        before: Float[Tensor, " tokens"],
        start: Float[Tensor, " tokens"],
    ) -> LossSum:
        """Return the loss of rows; `before` and `start` are log-probabilities of their tokens, row by row."""

    def log_probs(self, model: Any, batch: Batch) -> Float[Tensor, "rows positions"]:
        """Return each token's log-probability, in nats, where it is predicted; 0 elsewhere. Gradients reach it."""
        from torch.nn.functional import cross_entropy

        from ftlib.kinds.token_log_probs import token_terms

        return token_terms(
            [model],
            batch,
            lambda words, logits: -cross_entropy(logits / self.temperature, words, reduction="none"),
        )

    def clipped(self, ratios: Tensor, advantages: Tensor) -> dict[str, Tensor]:
        """Return what curves say of the border that `clip` draws: `clipped`, the share that has no gradient."""
        if self.updates == 1:
            return {}
        past = (advantages > 0) & (ratios > 1 + self.clip) | (advantages < 0) & (ratios < 1 - self.clip)
        return {"clipped": sum_and_count(past)}

    def bounded(self, ratios: Tensor, advantages: Tensor) -> Tensor:
        """Return ratio x advantage; with several updates not more than it is at the border that `clip` draws."""
        import torch

        gains = ratios * advantages
        if self.updates == 1:
            return gains
        return torch.minimum(gains, ratios.clamp(1 - self.clip, 1 + self.clip) * advantages)

    def _of_tokens(
        self, model: Any, start: Any, batch: Batch, tokens: Int[Tensor, " tokens"]
    ) -> tuple[Float[Tensor, " tokens"], ...]:
        """Return of each token the log-probability by model and start, the model's entropy, and the KL of both."""
        import torch

        from ftlib.kinds.token_log_probs import token_logits

        parts: list[tuple[Tensor, ...]] = []
        done = 0
        asked = (token_logits(one, batch, _AT_ONCE) for one in (model, start))
        for both in zip(*asked, strict=True):
            own, other = ((logits.float() / self.temperature).log_softmax(-1) for logits in both)
            words = tokens[done : done + len(own), None]
            shares = own.exp()
            chosen = own.gather(1, words)[:, 0], other.gather(1, words)[:, 0]
            parts.append((*chosen, -(shares * own).sum(-1), (shares * (own - other)).sum(-1)))
            done += len(own)
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))


_AT_ONCE = 128
"""Tokens whose distributions are compared at a time."""


def _answer_tokens(batch: Batch) -> tuple[Int[Tensor, " tokens"], Int[Tensor, " tokens"]]:
    """Return the tokens of a batch's answers, row by row, and the row of each."""
    targets = next_tokens(batch)
    places = (targets != UNTAUGHT).nonzero()
    return targets[places[:, 0], places[:, 1]], places[:, 0]


def of_groups(values: Float[Tensor, " answers"], group: Int[Tensor, " answers"]) -> tuple[Tensor, Tensor]:
    """Return for each answer the sum over its group, and how many answers that has."""
    _, places = group.unique(return_inverse=True)
    most = int(places.max()) + 1 if len(places) else 0
    sums = values.new_zeros(most).index_add(0, places, values)
    counts = values.new_zeros(most).index_add(0, places, values.new_ones(len(values)))
    return sums[places], counts[places]
