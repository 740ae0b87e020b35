"""The training loop for policies: a step draws answers, has them graded, and learns from which are better.

It stands beside `loop.py`, on the same group, optimiser, schedules, checkpoints and curves (`phase_loop.py`). A step
draws `group_size` answers to each prompt of a global batch; they are rows like others then, whose micro-batches and
ranks do not change the loss. A checkpoint lies between two steps, so no answer is ever kept: a resumed run draws it
again from the same weights.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import nn
from typing_extensions import override

from ftlib.errors import RecipeError, TrainingError
from ftlib.kinds.loading import head_modules, load_tokenizer, load_unread
from ftlib.kinds.sampling import Sampler
from ftlib.kinds.split import PreparedSplit
from ftlib.models.four_bits import four_bits_of, hold_in_four_bits
from ftlib.training import curves
from ftlib.training.checkpoints.resumable import State
from ftlib.training.curves import Curves
from ftlib.training.group import Group
from ftlib.training.loops.attempt import Attempt, Step
from ftlib.training.loops.batches import GlobalBatch
from ftlib.training.loops.phase_loop import PhaseLoop
from ftlib.training.loops.readings import Readings
from ftlib.training.loops.rollouts import Writer, prompt_lengths
from ftlib.training.objectives.policy import MEASURED, START, PolicyObjective
from ftlib.training.parts import open_part
from ftlib.training.plan import Part, Plan
from ftlib.training.rewards.base import RewardModel
from ftlib.training.rewards.scoring import load_reward_model

_PATIENCE = 20
"""Steps from the first on in which some answer must be better than another."""
_VALIDATION = 1 << 32
"""What stands in the place of the step where validation rows are answered."""


class PolicyLoop(PhaseLoop):
    """One rank of a phase whose policy learns from its own answers."""

    watched: ClassVar[str] = "validation_reward"

    @override
    def __init__(self, plan: Plan, group: Group, curves: Curves, *, sampler: Sampler | None = None) -> None:
        """Take what every loop takes; answers are drawn by the model itself without a `sampler`."""
        assert isinstance(plan.phase.objective, PolicyObjective)
        self.objective: PolicyObjective = plan.phase.objective
        super().__init__(plan, group, curves)
        self._check_room()
        self.writer = Writer(
            self.objective,
            load_tokenizer(plan.start.folder),
            self.collate,
            group,
            self._judges(),
            seed=plan.seed,
            precision=plan.precision,
            at_once=self.sized.rows,
            sampler=sampler,
        )
        self._silent: int | None = None
        """Steps from the first on without any signal; None before it is known how an earlier attempt began."""

    def _judges(self) -> Mapping[str, RewardModel]:
        """Load the models that the reward asks, whole on every rank: they read texts, by tokenizers of their own."""
        device = self.group.device
        formats = self.plan.formats
        return {
            name: load_reward_model(source, device, formats.get(name)) for name, source in self.plan.companions.items()
        }

    @override
    def _learnable(self, part: Part) -> PreparedSplit:
        """Open a part's prompts: they need no answer."""
        return open_part(self.plan, part, "train")

    @override
    def _beside(self) -> dict[str, nn.Module]:
        """Build the start once more: an adapter that is switched off would be its base, and not where it started."""
        start, quantization = load_unread(self.plan.start, self.plan.kind, 0.0), self.plan.phase.tuning.quantization
        if quantization:
            hold_in_four_bits(start, head_modules(start), quantization, four_bits_of(self.plan.start))
        return {START: start.requires_grad_(False)}

    def _check_room(self) -> None:
        """Raise RecipeError for prompts that leave too few of the model's positions for an answer."""
        most = self.collate.positions
        longest = max((int(prompt_lengths(of).max()) for of in (*self.train, *self.validation) if len(of)), default=0)
        if most is not None and longest + self.objective.max_new_tokens > most:
            raise RecipeError(
                f"phases[{self.plan.phase.name}].objective.max_new_tokens: {self.objective.max_new_tokens}, but the "
                f"longest prompt has {longest} tokens, and the model reads {most} in all; lower it, or the format's "
                "max_tokens"
            )

    @override
    def _step(self, batch: GlobalBatch, state: State, readings: Readings[Step], *, asks: bool) -> None:
        """Draw, grade, compare, and step as often as the objective says.

        Dropout is off: answers are drawn without it, and would not be the model's own that learns.
        """
        began = time.monotonic()
        self._begin(state.step, training=False)
        rate = self._rate(state)
        split, which = self._drawn(batch), (state.step, batch.part)
        rollouts = self.writer.write(self.model, split, batch.rows, self.objective.group_size, *which)
        answers = rollouts.rows()
        pieces, count = self.asking.pieces(answers, np.arange(len(answers)))
        assert pieces[0].context is not None
        sums = {name: float(value) for name, value in pieces[0].context.sums.items()}
        tokens = int(answers.supervised.sum())
        measured = rollouts.measured()
        self._listen(state.step, measured["no_signal"])
        measured |= {"entropy": sums["entropy"] / tokens, "kl": sums["kl"] / len(answers)}
        numbers, beside = torch.empty(0), ()
        for _ in range(self.objective.updates):
            sums = self._backward(answers, pieces, count)
            numbers, beside = self._update(sums, state, rate, asks=asks), (*sums.beside,)
        readings.add(Step(state.step + 1, batch, count, rate, measured, beside), numbers, began)

    def _listen(self, step: int, no_signal: float) -> None:
        """Raise TrainingError where no answer of the first steps is better than another. All ranks hear the same."""
        before = self._silent_before(step) if self._silent is None else self._silent
        self._silent = before + 1 if no_signal == 1.0 and before == step else 0
        if self._silent >= min(_PATIENCE, self.steps):
            raise TrainingError(
                f"phase {self.plan.phase.name}: in the first {self._silent} steps all {self.objective.group_size} "
                "answers to each prompt were worth the same, so nothing says which is better; raise "
                "objective.temperature or group_size, give a reward with degrees, or start from a model that is "
                "sometimes right"
            )

    def _silent_before(self, step: int) -> int:
        """Return how many steps before this one had no signal, from the first on, as the curves of an attempt say."""
        silent = 0
        if self.group.is_first and step:
            said = curves.read(self.place.folder / curves.FILE)
            earlier = [float(one["no_signal"]) for one in said if "no_signal" in one and int(one["step"]) <= step]
            silent = step if earlier and min(earlier) == 1.0 else 0
        return int(self.group.sum(float(silent))[0])

    @override
    @torch.no_grad()
    def _validated(self, split: PreparedSplit) -> float | None:
        """Return the mean reward of one answer to each prompt, the less the better: with its sign turned."""
        rows = np.argsort(-split.lengths, kind="stable")
        return -float(self.writer.write(self.model, split, rows, 1, _VALIDATION).worth.mean())

    @override
    def _shown(self, watched: float) -> float:
        return -watched

    @override
    def _facts(self, state: State, attempt: Attempt) -> dict[str, float | int | str]:
        """Say also how what is measured began and ended: means over the first and last tenth of the steps."""
        facts = super()._facts(state, attempt)
        if not self.group.is_first:
            return facts
        steps = [one for one in curves.read(self.place.folder / curves.FILE) if "reward" in one]
        tenth = max(1, len(steps) // 10)
        for name in MEASURED:
            series = [float(one[name]) for one in steps]
            facts |= {f"first_{name}": float(np.mean(series[:tenth])), f"last_{name}": float(np.mean(series[-tenth:]))}
        return facts
