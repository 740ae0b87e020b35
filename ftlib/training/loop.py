"""The one training loop, for every objective, tuning and number of workers.

It reads top to bottom: build, resume, then per step: seed, micro-batches, one reduction, clip, rate, step; now and
then an evaluation or a checkpoint. An objective gives sums and counts; only this file divides, by the count of the
whole global batch. Every step seeds itself, and batches are a pure function of the step, so a run that was killed and
resumed ends with bit-identical weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from ftlib.errors import TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import head_modules, load_for_training
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.training import checkpoints
from ftlib.training.batches import by_length, global_batches, micro_batches
from ftlib.training.checkpoints import State
from ftlib.training.curves import Curves
from ftlib.training.ema import Average, averaged
from ftlib.training.group import Group, accumulating, unwrap
from ftlib.training.optimizer import build_optimizer, schedule_factor, set_rate, steps_per_epoch, total_steps
from ftlib.training.plan import Plan


@dataclass(frozen=True)
class Trained:
    """What every rank ends with; `weights` is the full state dict on the first rank and empty on the others."""

    weights: dict[str, torch.Tensor]
    state: State
    unused: frozenset[str]
    """Parameters that no gradient reaches; they were frozen."""
    facts: dict[str, float | int | str]


class Loop:
    """One rank of one phase."""

    def __init__(self, plan: Plan, group: Group, curves: Curves) -> None:
        """Load data and model and spread the model over the group. Raises DataError, ModelError, RecipeError."""
        self.plan, self.group, self.curves = plan, group, curves
        self.settings = plan.phase.optimizer
        data = Path(plan.data)
        self.train = open_split(data / "train.arrow", plan.labels)
        self.validation = open_split(data / "validation.arrow", plan.labels)
        self.supervised = int(self.train.supervised.sum())
        if not self.supervised:
            raise TrainingError(
                f"{data}: no supervised example in {len(self.train)} training rows; nothing to learn from"
            )
        tuned, head = build_model(plan, plan.phase.dropout)
        self.collate = Collator.of(tuned, group.device)
        self.unused = self._freeze_unused(tuned)
        self.model = group.spread(tuned, plan.compute.sharding)
        self.optimizer = build_optimizer(self.model, self.settings, plan.phase.tuning.layer_decay, head)
        self.average = Average(self.model, plan.phase.ema_decay) if plan.phase.ema_decay else None
        self.steps_per_epoch = steps_per_epoch(len(self.train), self.settings)
        self.steps = total_steps(len(self.train), self.settings)
        self.evaluation_steps = max(1, self.steps_per_epoch // plan.phase.evaluations_per_epoch)

    def run(self) -> Trained:
        """Train to the end, from the newest checkpoint if there is one. Raises TrainingError on a broken invariant."""
        run = Path(self.plan.run)
        learnt = self.model, self.optimizer, self.average
        state = checkpoints.restore(run, self.plan.fingerprint, self.group, *learnt) or State()
        self.curves.rewind(state.step)
        resumed_from = state.step
        started = saved = time.monotonic()
        loss, rows = math.nan, 0
        order: tuple[int, list[Int[np.ndarray, " batch"]]] = (-1, [])
        while state.step < self.steps and not state.stopped:
            epoch, position = divmod(state.step, self.steps_per_epoch)
            if order[0] != epoch:
                batches = global_batches(self.train.sizes, self.settings.batch_size, self.plan.seed, epoch)
                order = (epoch, batches)
            began = time.monotonic()
            wish = float(self.group.is_first and began - saved > self.plan.compute.checkpoint_seconds)
            loss, norm, wish = self._step(order[1][position], state, wish)
            rows += len(order[1][position])
            self.curves.write(
                step=state.step + 1,
                epoch=(state.step + 1) / self.steps_per_epoch,
                loss=loss,
                learning_rate=self._rate(state),
                grad_norm=norm,
                samples_per_second=len(order[1][position]) / (time.monotonic() - began),
            )
            state = state.changed(step=state.step + 1)
            if state.step == 1:
                self.group.check_agreement(self.model, state.step)
            if len(self.validation) and (state.step % self.evaluation_steps == 0 or state.step == self.steps):
                with averaged(self.average):
                    state = self._judge(state)
            if wish and state.step < self.steps and not state.stopped:
                checkpoints.save(run, self.plan.fingerprint, self.group, *learnt, state)
                saved = time.monotonic()
        self.group.check_agreement(self.model, state.step)
        if self.average:
            self.average.swap()  # for good: the phase ends with the average
        facts = self._facts(state, loss, rows, time.monotonic() - started)
        if resumed_from:
            facts["resumed_from_step"] = resumed_from
        return Trained(self._weights(state), state, self.unused, facts)

    def _facts(self, state: State, loss: float, rows: int, seconds: float) -> dict[str, float | int | str]:
        """Say what happened; rates are this attempt's own, so a resumed run does not count what it did not do."""
        facts: dict[str, float | int | str] = {
            "steps": state.step,
            "epochs": round(state.step / self.steps_per_epoch, 4),
            "supervised": self.supervised,
            "final_loss": loss,
            "samples_per_second": rows / max(seconds, 1e-9),
            "seconds": seconds,
            "world_size": self.group.world_size,
            "precision": self.plan.precision,
            "unused_parameters": len(self.unused),
        }
        if state.best_loss is not None:
            facts |= {"best_validation_loss": state.best_loss, "best_step": state.best_step}
        if self.plan.phase.ema_decay:
            facts["ema_share_of_step_1"] = self.plan.phase.ema_decay ** (self._kept_step(state) - 1)
        return facts

    def _step(self, rows: Int[np.ndarray, " batch"], state: State, wish: float) -> tuple[float, float, bool]:
        """Do one optimiser step on a global batch; return its loss, the gradient norm, and whether a rank wishes."""
        torch.manual_seed(hash_seed(self.plan.seed, state.step, self.group.rank))
        self.model.train()
        pieces = micro_batches(rows, self.group.rank, self.group.world_size, self.plan.compute.micro_batch_size)
        count = int(self.train.supervised[rows].sum())
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        for i, (piece, counts) in enumerate(pieces):
            with accumulating(self.model, last=i == len(pieces) - 1):
                loss = self._loss(self.train, piece) * float(counts)
                # DDP and FSDP average over ranks; the sum over ranks is wanted, so the world size comes back in.
                (loss * (self.group.world_size / max(1, count))).backward()
            total += loss.detach()
        summed, wished = self.group.sum(total, wish)
        mean = summed / max(1, count)
        if not math.isfinite(mean):
            raise TrainingError(
                f"phase {self.plan.phase.name}: the loss is {mean} at step {state.step + 1} of {self.steps} with "
                f"learning rate {self._rate(state):g}; lower optimizer.learning_rate, raise warmup, or look at the rows"
            )
        norm = nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p.requires_grad], self.settings.clip_norm or math.inf
        )
        set_rate(self.optimizer, self._rate(state))
        self.optimizer.step()
        if self.average:
            self.average.update(first=state.step == 0)
        self.optimizer.zero_grad(set_to_none=True)
        return mean, float(getattr(norm, "full_tensor", lambda: norm)()), wished > 0

    def _loss(self, split: PreparedSplit, rows: Int[np.ndarray, " rows"]) -> torch.Tensor:
        batch = split.batch(rows, self.collate)
        with torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16"):
            return self.plan.phase.objective.loss(self.model, batch).total

    def _rate(self, state: State) -> float:
        return self.settings.learning_rate * schedule_factor(
            self.settings, state.step, self.steps, state.plateau_factor
        )

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """Return the mean loss over the validation split; rows are spread over the ranks, the order is fixed."""
        self.model.eval()
        total = torch.zeros((), dtype=torch.float64, device=self.group.device)
        for rows in by_length(self.validation.sizes, 2 * self.settings.batch_size):
            size = self.plan.compute.micro_batch_size
            for piece, counts in micro_batches(rows, self.group.rank, self.group.world_size, size):
                total += self._loss(self.validation, piece) * float(counts)
        (summed,) = self.group.sum(total)
        return summed / max(1, int(self.validation.supervised.sum()))

    def _judge(self, state: State) -> State:
        """Measure the validation loss and update what plateau and early stopping remember."""
        loss = self._validation_loss()
        self.curves.write(step=state.step, epoch=state.step / self.steps_per_epoch, validation_loss=loss)
        stopping = self.plan.phase.early_stopping
        best = math.inf if state.best_loss is None else state.best_loss
        if loss < best - (stopping.min_delta if stopping else 0.0):
            if stopping:
                self._keep_best()
            return state.changed(best_loss=loss, best_step=state.step, bad_evaluations=0, plateau_bad=0)
        state = state.changed(bad_evaluations=state.bad_evaluations + 1, plateau_bad=state.plateau_bad + 1)
        if self.settings.schedule == "plateau" and state.plateau_bad > self.settings.plateau_patience:
            state = state.changed(plateau_factor=state.plateau_factor * self.settings.plateau_factor, plateau_bad=0)
        return state.changed(stopped=bool(stopping) and state.bad_evaluations >= (stopping.patience if stopping else 0))

    def _keep_best(self) -> None:
        """Write the weights beside the checkpoints. A resumed run writes the same bytes again, so no order matters."""
        weights = self._full_state()
        if self.group.is_first:
            checkpoints.write_weights(Path(self.plan.run) / "best.safetensors", weights)
        self.group.barrier()

    def _kept_step(self, state: State) -> int:
        """Return the step whose weights are the phase's end: the last, or early stopping's best."""
        return state.best_step or state.step if self.plan.phase.early_stopping else state.step

    def _weights(self, state: State) -> dict[str, torch.Tensor]:
        if self._kept_step(state) != state.step:
            return checkpoints.read_weights(Path(self.plan.run) / "best.safetensors") if self.group.is_first else {}
        return self._full_state()

    def _full_state(self) -> dict[str, torch.Tensor]:
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state: dict[str, Any] = get_model_state_dict(unwrap(self.model), options=options)
        return state

    def _freeze_unused(self, model: nn.Module) -> frozenset[str]:
        """Freeze the trainable parameters that no gradient reaches, found by a pass over the two widest rows.

        DDP would wait for such a parameter's gradient for ever, and AdamW's decay would move it.
        """
        rows = self.train.sizes.argsort()[::-1][:2]
        loss = self.plan.phase.objective.loss(model.train(), self.train.batch(rows, Collator.of(model)))
        if loss.count != (counted := int(self.train.supervised[rows].sum())):
            raise TrainingError(
                f"objective {self.plan.phase.objective.kind!r} counts {loss.count} supervised items where the format "
                f"counted {counted}: the loss would be divided by the wrong number; make the two count alike"
            )
        loss.total.backward()
        unused = frozenset(name for name, p in model.named_parameters() if p.requires_grad and p.grad is None)
        for name, parameter in model.named_parameters():
            if name in unused:
                parameter.requires_grad_(False)
            parameter.grad = None
        return unused


def hash_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one step on one rank: dropout needs no saved generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def build_model(plan: Plan, dropout: float | None) -> tuple[nn.Module, list[str]]:
    """Return the phase's model as it is before step 0, on the CPU, and its head's modules; the same bits every time."""
    torch.manual_seed(plan.seed)
    model = load_for_training(Path(plan.start), plan.kind, dropout)
    head = head_modules(model)
    return plan.phase.tuning.prepare(model, plan.kind, head), head
