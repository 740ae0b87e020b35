"""What every training loop does, whatever a step of it learns from: build, resume, update, judge, save.

`loop.py` learns from rows as they are, `policy_loop.py` from what the model writes. Both add up gradients over
micro-batches and ranks; only `_backward` divides, by the count of the whole global batch. Every step seeds itself, and
batches are a pure function of the step, so a run that was killed and resumed ends with bit-identical weights.
"""

from __future__ import annotations

import gc
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar, NoReturn, cast

import numpy as np
import torch
from torch import nn

from ftlib.errors import Interrupted, RecipeError, TrainingError
from ftlib.kinds.augment import Augment
from ftlib.kinds.collate import Collator
from ftlib.kinds.draws import Draw
from ftlib.kinds.padding import check_prompted
from ftlib.kinds.soft_prompts import is_prompted
from ftlib.kinds.split import PreparedSplit
from ftlib.models.four_bits import four_bits_of, hold_in_four_bits
from ftlib.progress import note
from ftlib.storage.node_cache import local_path
from ftlib.training.checkpoints.in_bucket import checkpoints_at
from ftlib.training.checkpoints.resumable import State
from ftlib.training.curves import Curves
from ftlib.training.group import Group, accumulating, own_part, shard_again, unwrap
from ftlib.training.layers import WIDTH
from ftlib.training.loops.asking import Asking, Piece
from ftlib.training.loops.attempt import Attempt, Step, Sums, Trained
from ftlib.training.loops.batches import GlobalBatch, MixedOrder, Order
from ftlib.training.loops.by_task import minimised
from ftlib.training.loops.companions import load_companions
from ftlib.training.loops.ema import Average, averaged
from ftlib.training.loops.first_loss import check_first_loss
from ftlib.training.loops.heartbeat import Heartbeat
from ftlib.training.loops.modes import answering, into_training, rest_frozen
from ftlib.training.loops.phase_model import build_model, fresh_of, place
from ftlib.training.loops.readings import Readings
from ftlib.training.loops.rehearsal import enough_memory, rehearse
from ftlib.training.loops.rollouts import stand_ins
from ftlib.training.loops.thawing import Thawing
from ftlib.training.loops.unused import freeze_unused
from ftlib.training.memory import peak_memory
from ftlib.training.memory.live_bytes import without_memory
from ftlib.training.memory.prediction import Sized
from ftlib.training.optimizer import build_optimizer, held_by, set_rate, too_slow, total_steps
from ftlib.training.parts import drawn_from, open_part
from ftlib.training.penalties.base import Start
from ftlib.training.plan import AVERAGE, Part, Plan
from ftlib.training.schedule import schedule_factor


class PhaseLoop(ABC):
    """One rank of one phase."""

    watched: ClassVar[str]
    """What curves and facts call the number that early stopping and plateau watch."""

    def __init__(self, plan: Plan, group: Group, curves: Curves) -> None:
        """Load data and model and spread the model over the group. Raises DataError, ModelError, RecipeError."""
        self.plan, self.group, self.curves = plan, group, curves
        self.settings = plan.phase.optimizer
        parts = [self._learnable(part) for part in plan.parts]
        self.train = drawn_from(plan, parts)
        """What global batches take rows of: each part, or all of them as one."""
        self.validation = [open_part(plan, part, "validation") for part in plan.parts]
        objective = minimised(plan.phase, parts)
        tuned, head = build_model(plan, plan.phase.dropout)
        if quantization := plan.phase.tuning.quantization:
            hold_in_four_bits(tuned, head, quantization, four_bits_of(plan.start))
        self.collate = Collator.of(tuned, group.device, width_multiple=WIDTH if plan.compute.compile else 1)
        beside = self._beside()
        shapes = without_memory(tuned, "meta"), {name: without_memory(one, "meta") for name, one in beside.items()}
        asked = plan.phase, plan.compute, plan.precision, *stand_ins(plan.phase, self.train, self.validation)
        self.sized = Sized(shapes[0], *asked, shapes[1])
        where = plan.compute, plan.precision, group
        self.companions = {name: place(one, *where) for name, one in beside.items()}
        placed = place(tuned, *where)
        with enough_memory(self.sized, group.device):
            self._check_prompted(placed)
            self.unused = freeze_unused(placed, objective, self.companions, self.sized.train, plan.precision)
        self.order = _order(plan, parts, self.train)
        self._given = drawn_from(plan, parts, self.order.times) if isinstance(self.order, MixedOrder) else self.train
        thaws = plan.phase.tuning.thaws(placed, head, self.order.steps_per_epoch)
        self.thawing = Thawing.of(placed, thaws)
        self._stage = len(self.thawing.borders)  # all of it trains while it is built and rehearsed
        self.model = group.replicate(placed)
        self.asking = Asking(
            objective,
            self.model,
            self.collate,
            group,
            companions=self.companions,
            precision=plan.precision,
            micro_batch_size=plan.compute.micro_batch_size,
            pack_tokens=plan.compute.pack_tokens,
        )
        self.asking.check_packing(self.train)
        decay, factors = plan.phase.tuning.layer_decay, plan.phase.tuning.rate_factors(placed, head)
        self.optimizer = build_optimizer(placed, self.settings, decay, head, plan.seed, factors)
        self.average = Average(self.model, plan.phase.ema_decay) if plan.phase.ema_decay else None
        fresh = fresh_of(plan.start, head)
        self.renewal: int | None = getattr(plan.phase.objective, "renewal", None)
        self.teacher = Average(self.model, 0.0) if self.renewal else None
        self.asking.remembers(self.teacher, self.average, plan.phase.self_kl)
        self.pull = plan.phase.penalty.start(self._start(fresh)) if plan.phase.penalty else None
        self.steps = total_steps([split.sizes for split in self.train], self.settings, plan.seed)
        self.snapshots = self._asked_snapshots()
        self._check_rates(placed)
        self.evaluation_steps = max(1, self.order.steps_per_epoch // plan.phase.evaluations_per_epoch)
        self.place = plan.place
        self.checkpoints = checkpoints_at(self.place, plan.fingerprint, group, self.thawing.starts, curves.flush)

    def _learnable(self, part: Part) -> PreparedSplit:
        """Open a part's training rows. Raises TrainingError if there is nothing to learn from."""
        split = open_part(self.plan, part, "train")
        if not split.supervised.sum():
            raise TrainingError(
                f"{part.folder}: no supervised example in {len(split)} training rows; nothing to learn from"
            )
        return split

    def _beside(self) -> dict[str, nn.Module]:
        """Build the frozen models that the objective asks, with weights that are unread."""
        return load_companions(self.plan, self.collate)

    @abstractmethod
    def _step(self, batch: GlobalBatch, state: State, readings: Readings[Step], *, asks: bool) -> None:
        """Do one step on a global batch; `asks` for a checkpoint. Its numbers are read when they are due."""

    @abstractmethod
    def _validated(self, split: PreparedSplit) -> float | None:
        """Return what is watched of a validation split, lower being better; None where there is nothing to watch."""

    def _shown(self, watched: float) -> float:
        """Return what is watched as the curves say it."""
        return watched

    def close(self) -> None:
        """End what works beside the steps."""
        self.checkpoints.close()

    def _asked_snapshots(self) -> dict[str, int]:
        """Return the step that each snapshot is taken behind, by name. Raises RecipeError for one behind the last."""
        phase = self.plan.phase
        asked = phase.snapshots.steps_of(self.order.steps_per_epoch) if phase.snapshots else {}
        if late := [name for name, step in asked.items() if step >= self.steps]:
            raise RecipeError(
                f"phases[{phase.name}].snapshots: {', '.join(late)} would be taken at or behind the end: there are "
                f"{self.steps} steps, {self.order.steps_per_epoch} an epoch; ask for earlier ones"
            )
        return dict(sorted(asked.items(), key=lambda item: item[1]))

    def _check_prompted(self, placed: nn.Module) -> None:
        """Prove that a model answers a row under a prompt as it does alone. Raises ModelError."""
        if not is_prompted(placed):
            return
        autocast = torch.autocast(self.group.device.type, torch.bfloat16, enabled=self.plan.precision == "bf16")
        with answering(placed), autocast:
            for split in self.train:
                check_prompted(placed, split, self.collate)

    def _check_rates(self, placed: nn.Module) -> None:
        """Find before the first step what would be found behind the last. Raises RecipeError, on every rank.

        What does not come to learn need not move, and of one step nobody expects that it moves everything.
        """
        slow = too_slow(placed, self.optimizer, self.settings)
        of_ranks = cast("list[dict[str, float]]", self.group.gather(slow))
        late = self.thawing.waiting(self.steps - 1)
        still = [name for name in slow if all(name in each for each in of_ranks) and name not in late]
        if still and self.steps > 1:
            slowest, tuning = min(still, key=lambda name: slow[name]), self.plan.phase.tuning
            raise RecipeError(
                f"phases[{self.plan.phase.name}]: {len(still)} trainable parameters would not move, among them "
                f"{slowest}: its learning rate is {slow[slowest]:.1e} at most, and a step of that is rounded away; "
                + (f"{tuning.speeds_up}, or " if slow[slowest] < self.settings.learning_rate else "")
                + "raise optimizer.learning_rate"
            )

    def _start(self, fresh: Sequence[str]) -> Start:
        fisher = None if self.plan.fisher is None else local_path(self.plan.fisher)
        return Start(unwrap(self.model), fresh, fisher, partial(self.group.over_shards, self.model))

    def run(self, heartbeat: Heartbeat) -> Trained:
        """Train to the end, from the newest checkpoint if there is one; `heartbeat` is told where it is.

        Raises TrainingError on a broken invariant, StorageError, on every rank, where a checkpoint cannot be written,
        Interrupted, behind a step whose checkpoint is whole, where somebody asked it to stop.
        """
        self.process_bytes = self._without_model()
        try:
            return self._run(heartbeat)
        finally:
            self.close()

    def _run(self, heartbeat: Heartbeat) -> Trained:
        """Step, judge and save until the last step, or until early stopping; then take the weights that are kept."""
        learnt = unwrap(self.model), self.optimizer, self.average
        state = self.checkpoints.restore(*learnt, lambda step: self._thaw(step - 1), self.teacher) or State()
        if not state.step:
            heartbeat.at("in the rehearsal before step 1")
            rehearse(self.sized, self.asking, self.place)
            self.process_bytes = self._without_model()  # with the kernels and code that a first pass loads
        peak_memory.forget_peak(self.group.device)
        self.curves.rewind(state.step)
        attempt = Attempt(state.step)
        readings = Readings[Step](self.group.device, lambda *read: self._record(attempt, *read))
        self._tell_of_groups()
        while state.step < self.steps and not state.stopped:
            heartbeat.at(f"in step {state.step + 1} of {self.steps}")
            self._thaw(state.step)
            self._step(self.order.at(state.step), state, readings, asks=self._is_time_to_save(attempt))
            state = state.changed(step=state.step + 1)
            if state.step == 1:
                self.group.check_agreement(self.model, state.step)
            if state.step in self.snapshots.values():
                heartbeat.at(f"in the snapshot of step {state.step} of {self.steps}")
                readings.settle()
                with averaged(self.average):
                    self.checkpoints.keep(self.model, state.step)
            if self._is_time_to_judge(state):
                heartbeat.at(f"in the evaluation after step {state.step} of {self.steps}")
                readings.settle()
                with averaged(self.average):
                    state = self._judge(state)
            if attempt.lacks_checkpoint:
                self.checkpoints.settle()  # says why
                attempt.lacks_checkpoint = False
            if attempt.wants_checkpoint and state.step < self.steps and not state.stopped:
                heartbeat.at(f"in the checkpoint of step {state.step} of {self.steps}")
                readings.settle()
                self.checkpoints.save(*learnt, state, self.teacher)
                attempt.wants_checkpoint, attempt.saved = False, time.monotonic()
                if attempt.stops:
                    self._stop(state)
        readings.settle()
        self.checkpoints.settle()
        self.group.check_agreement(self.model, state.step)
        if self.average:
            self.average.swap()  # for good: the phase ends with the average
        facts = self._facts(state, attempt)
        self._take_best(state)
        shard_again(unwrap(self.model))  # what the last evaluation has gathered is no master
        still = self.unused | self.thawing.waiting(self._kept_step(state) - 1)
        # One behind early stopping's best step is trained further than the phase's end: no line leads from it to there.
        taken = {name: step for name, step in self.snapshots.items() if step <= self._kept_step(state)}
        put = {name: partial(self.checkpoints.restore_kept, self.model, step) for name, step in taken.items()}
        return Trained(unwrap(self.model), state, still, facts, self.companions, put, taken)

    def _tell_of_groups(self) -> None:
        """Say before the first step that some groups of layers will not come to learn."""
        borders = self.thawing.borders
        if self.group.is_first and (late := sum(border >= self.steps for border in borders)):
            words = (
                f"{late} of {len(borders)} groups of layers stay as they are: the last would begin to learn at step "
                f"{borders[-1] + 1}, and there are {self.steps}"
            )
            with suppress(Interrupted):  # by whoever asked; the steps hear of it too
                note(f"train {self.plan.phase.name}", words)

    def _thaw(self, step: int) -> None:
        """Let those parameters train that learn in a step, counted from 0; at a border bind the replicas anew.

        DDP's buckets are of what trained when they were made, and it would wait for the rest for ever.
        """
        if (stage := self.thawing.stage(step)) == self._stage:
            return
        self._stage = stage
        plain = unwrap(self.model)
        self.model = self.asking.model = plain  # the old replicas' hooks go with them, and only then
        gc.collect()
        self.thawing.enter(plain, step)
        self.model = self.asking.model = self.group.replicate(plain)

    def _without_model(self) -> int:
        """Return the bytes that this process holds beside the model."""
        return peak_memory.now(self.group.device) - self.held_bytes

    @property
    def held_bytes(self) -> int:
        """Return what this rank's models and their copies take, before anything has stepped."""
        models = [unwrap(self.model), *self.companions.values()]
        tensors = [tensor for model in models for tensor in (*model.parameters(), *model.buffers())]
        averages = [tensor for of in (self.average, self.teacher) if of for tensor in of.tensors.values()]
        trained = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        copies = [*averages, *trained * (self.plan.phase.penalty.copies if self.plan.phase.penalty else 0)]
        parts = [own_part(tensor) for tensor in (*tensors, *copies)]
        return sum(part.nbytes for part in parts if part.device.type == self.group.device.type)  # the rest is offloaded

    def _stop(self, state: State) -> NoReturn:
        """End behind a step that is saved. Raises Interrupted."""
        self.checkpoints.settle(must=True)
        where = f"stopped on request after step {state.step} of {self.steps}; the next run goes on from there"
        if self.group.is_first:
            with suppress(Interrupted):  # by whoever asked
                note(f"train {self.plan.phase.name}", where)
        raise Interrupted(f"phase {self.plan.phase.name}: {where}")

    def _is_time_to_save(self, attempt: Attempt) -> bool:
        """Ask the first rank's clock; the others hear of it with the step's loss. One at a time is written."""
        due = time.monotonic() - attempt.saved > self.plan.compute.checkpoint_seconds
        return self.group.is_first and due and not self.checkpoints.is_writing

    def _is_time_to_judge(self, state: State) -> bool:
        due = state.step % self.evaluation_steps == 0 or state.step == self.steps
        return due and any(len(split) for split in self.validation)

    def _facts(self, state: State, attempt: Attempt) -> dict[str, float | int | str]:
        """Say what happened; rates are this attempt's own, so a resumed run does not count what it did not do."""
        seconds = time.monotonic() - attempt.began
        facts: dict[str, float | int | str] = {
            "steps": state.step,
            "epochs": round(state.step / self.order.steps_per_epoch, 4),
            "supervised": sum(int(split.supervised.sum()) for split in self.train),
            "final_loss": attempt.loss,
            "samples_per_second": attempt.rows / max(seconds, 1e-9),
            "seconds": seconds,
            "world_size": self.group.world_size,
            "precision": self.plan.precision,
            "unused_parameters": len(self.unused),
            "optimizer_bytes": held_by(self.optimizer),
        }
        if state.best_loss is not None:
            facts |= {f"best_{self.watched}": self._shown(state.best_loss), "best_step": state.best_step}
        if (groups := len(self.thawing.borders)) > 1:
            facts["unfrozen_groups"] = f"{self.thawing.stage(self._kept_step(state) - 1)} of {groups}"
            sizes = {name: p.numel() for name, p in unwrap(self.model).named_parameters()}
            facts[AVERAGE] = round(self.thawing.trained_on_average(sizes, state.step))
        if self.plan.phase.ema_decay:
            facts["ema_share_of_step_1"] = self.plan.phase.ema_decay ** (self._kept_step(state) - 1)
        if attempt.first_step:
            facts["resumed_from_step"] = attempt.first_step
        return facts

    def _begin(self, step: int, *, training: bool = True) -> None:
        """Seed a step, counted from 0, and put the model into its mode."""
        torch.manual_seed(hash_seed(self.plan.seed, step, self.group.rank))
        if not training:
            self.model.eval()
            return
        updated = self.plan.phase.batch_norm == "updated"
        into_training(self.model, updated=updated, dropout=self.asking.drops_out)
        if len(self.thawing.borders) > 1:
            rest_frozen(self.model)

    def _update(self, sums: Sums, state: State, rate: float, *, asks: bool) -> torch.Tensor:
        """Let the optimiser step by the gradients that are there; return a step's numbers, as `_record` reads them."""
        pulled = [self.pull.add_gradient() * self.group.share_of(self.model)] if self.pull else []
        told = float(asks), float(self.curves.asks_to_stop), float(self.checkpoints.has_failed)
        beside = (number for pair in sums.beside.values() for number in pair.unbind())
        summed = self.group.summed(sums.loss, *told, *beside, *pulled)
        norm: Any = nn.utils.clip_grad_norm_(
            [p for p in self.model.parameters() if p.requires_grad], self.settings.clip_norm or math.inf
        )
        set_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.pull:
            self.pull.after_step()
        if self.average:
            self.average.update(first=state.step == 0)
        if self.teacher and self.renewal and (state.step + 1) % self.renewal == 0:
            self.teacher.take()
        self.optimizer.zero_grad(set_to_none=True)
        whole = getattr(norm, "full_tensor", lambda: norm)().to(self.group.device, torch.float64).reshape(1)
        return torch.cat([whole, summed])

    def _drawn(self, batch: GlobalBatch) -> PreparedSplit:
        return self._given[batch.part].drawn(Draw(self.plan.seed, batch.epoch, batch.part))

    def _backward(
        self, split: PreparedSplit, pieces: Sequence[Piece], count: int, augment: Augment | None = None
    ) -> Sums:
        """Add up the gradients of a global batch, over micro-batches and ranks; return what this rank's pieces are."""
        sums = Sums(torch.zeros((), dtype=torch.float64, device=self.group.device))
        for i, piece in enumerate(pieces):
            with accumulating(self.model, last=i == len(pieces) - 1):
                loss, weight = self.asking.loss(split, piece, augment), float(piece.counts)
                # DDP and FSDP average over ranks; the sum over ranks is wanted, so the world size comes back in.
                (loss.total * weight * (self.group.world_size / max(1, count))).backward()
            sums.add(loss, weight)
        return sums

    def _rate(self, state: State) -> float:
        return self.settings.learning_rate * schedule_factor(
            self.settings, state.step, self.steps, state.plateau_factor
        )

    def _record(self, attempt: Attempt, step: Step, numbers: Sequence[float], seconds: float) -> None:
        """Write what a step did; of a mixture also under its part's name.

        Raises TrainingError where its loss is no number, or the first is not what it must be: what was stepped since is
        thrown away with the run.
        """
        norm, total, asking, stopping, failed, *more = numbers
        pairs, penalty = more[: 2 * len(step.beside)], more[2 * len(step.beside) :]
        beside = {name: total / of for name, total, of in zip(step.beside, pairs[::2], pairs[1::2], strict=True) if of}
        loss = total / max(1, step.count)
        if not math.isfinite(loss):
            raise TrainingError(
                f"phase {self.plan.phase.name}: the loss is {loss} at step {step.number} of {self.steps} with "
                f"learning rate {step.learning_rate:g}; lower optimizer.learning_rate, raise warmup, or look at the "
                "rows"
            )
        if step.number == 1:
            check_first_loss(self.plan, loss)
        rows = len(step.batch.rows)
        attempt.loss, attempt.rows = loss, attempt.rows + rows
        attempt.lacks_checkpoint = attempt.lacks_checkpoint or failed > 0
        self.curves.write(
            step=step.number,
            epoch=step.number / self.order.steps_per_epoch,
            loss=loss,
            learning_rate=step.learning_rate,
            grad_norm=norm,
            samples_per_second=rows / seconds,
            **({"penalty": penalty[0]} if penalty else {}),
            **step.measured,
            **beside,
            **self._of_part(step.batch, loss),
        )
        alone = self.group.world_size == 1  # else all ranks must hear of it, in the next step
        attempt.stops = attempt.stops or stopping > 0 or (alone and self.curves.asks_to_stop)
        attempt.wants_checkpoint = attempt.wants_checkpoint or asking > 0 or attempt.stops

    def _by_part(self, what: str, losses: dict[str, float]) -> dict[str, float]:
        """Return losses under their parts' names; nothing where there is one part, whose loss is the phase's."""
        return {f"{what}:{name}": loss for name, loss in losses.items()} if len(self.plan.parts) > 1 else {}

    def _of_part(self, batch: GlobalBatch, loss: float) -> dict[str, float]:
        """Return a step's loss under the name of its part; a batch of several parts has none."""
        return {} if self.plan.phase.mixes_rows else self._by_part("loss", {self.plan.parts[batch.part].name: loss})

    def _judge(self, state: State) -> State:
        """Measure what is watched on validation rows, and update what plateau and early stopping remember.

        Of a mixture it is the mean over the parts whose validation rows have one, weighted by their shares. Where none
        has one, nothing is remembered.
        """
        watched = [
            (part, loss)
            for part, split in zip(self.plan.parts, self.validation, strict=True)
            if len(split) and (loss := self._validated(split)) is not None
        ]
        if not watched:
            return state
        loss = sum(part.share * each for part, each in watched) / sum(part.share for part, _ in watched)
        self.curves.write(
            step=state.step,
            epoch=state.step / self.order.steps_per_epoch,
            **{self.watched: self._shown(loss)},
            **self._by_part(self.watched, {part.name: self._shown(each) for part, each in watched}),
        )
        stopping = self.plan.phase.early_stopping
        best = math.inf if state.best_loss is None else state.best_loss
        if loss < best - (stopping.min_delta if stopping else 0.0):
            if stopping:
                self.checkpoints.keep_best(self.model, state.step)
            return state.changed(best_loss=loss, best_step=state.step, bad_evaluations=0, plateau_bad=0)
        state = state.changed(bad_evaluations=state.bad_evaluations + 1, plateau_bad=state.plateau_bad + 1)
        if self.settings.schedule == "plateau" and state.plateau_bad > self.settings.plateau_patience:
            state = state.changed(plateau_factor=state.plateau_factor * self.settings.plateau_factor, plateau_bad=0)
        return state.changed(stopped=bool(stopping) and state.bad_evaluations >= (stopping.patience if stopping else 0))

    def _kept_step(self, state: State) -> int:
        """Return the step whose weights are the phase's end: the last, or early stopping's best."""
        return state.best_step or state.step if self.plan.phase.early_stopping else state.step

    def _take_best(self, state: State) -> None:
        """Give the model the weights of early stopping's best step, if that is not the last."""
        if (kept := self._kept_step(state)) != state.step:
            self.checkpoints.restore_best(self.model, kept)


def _order(plan: Plan, parts: Sequence[PreparedSplit], train: Sequence[PreparedSplit]) -> Order | MixedOrder:
    shares, settings = [part.share for part in plan.parts], plan.phase.optimizer
    size, tokens = settings.batch_size, settings.batch_tokens
    if plan.phase.mixes_rows:
        return MixedOrder(train[0].sizes, [*map(len, parts)], shares, size, plan.seed)
    return Order([split.sizes for split in train], shares, size, plan.seed, tokens)


def hash_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one step on one rank: dropout needs no saved generator."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> np.uint64(1))
