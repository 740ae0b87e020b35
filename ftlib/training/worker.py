"""What one worker does from start to end, the same in this process and under Ray: train, check, write the result.

The first rank leaves `model/` (and `adapter/`), `curves.jsonl` and, last, `result.json` in the run's folder. A broken
invariant leaves `failure.json`, which a restarted worker finds at once instead of failing the same way again.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from ftlib import errors
from ftlib.errors import Interrupted, ModelError, ReglageError, StorageError, TrainingError, TransientError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import is_adapted
from ftlib.kinds.writing import SHARD_SIZE, save_adapter
from ftlib.models.adapter import base_of
from ftlib.models.bottlenecks import bottlenecks_of
from ftlib.models.checkpoint import adapter_in, model_in, snapshot_in, snapshots_in, task_in, tasks_in
from ftlib.models.shards import write_shared_shards
from ftlib.storage.claims import ClaimLostError
from ftlib.storage.files import local_errors, private_folder
from ftlib.training.checkpoints.names import FOLDER
from ftlib.training.checkpoints.resumable import State
from ftlib.training.checkpoints.run_place import RESULT, RunPlace, result_bytes
from ftlib.training.checkpoints.saving import on_first, write_model
from ftlib.training.checkpoints.shards import compare, gather_into
from ftlib.training.curves import FILE, STARTS, STOP, Curves
from ftlib.training.group import Group, own_part, shards_of
from ftlib.training.loops import heartbeat
from ftlib.training.loops.asking import Asking
from ftlib.training.loops.attempt import Trained
from ftlib.training.loops.by_task import minimised
from ftlib.training.loops.heartbeat import Heartbeat
from ftlib.training.loops.loop import Loop
from ftlib.training.loops.modes import moving_statistics
from ftlib.training.loops.phase_loop import PhaseLoop
from ftlib.training.loops.phase_model import build_model, place
from ftlib.training.loops.policy_loop import PolicyLoop
from ftlib.training.loops.rehearsal import enough_memory
from ftlib.training.loops.rollouts import stand_ins
from ftlib.training.memory import peak_memory
from ftlib.training.memory.prediction import MEASURED, predict
from ftlib.training.parts import open_part
from ftlib.training.plan import GroupPlan, Plan
from ftlib.training.reproducible import reproducibly
from ftlib.training.resources import check_gpu
from ftlib.training.tuning.base import Facts, Problem
from ftlib.wording import some
from ftlib.workspace import write_durably

_ROWS = 32
"""Rows whose gradients are asked for."""
SNAPSHOT = "snapshot:"
"""Begins the name of a fact that says behind which step a snapshot was taken."""
FAILURE = "failure.json"


def work(asked: Plan) -> None:
    """Train one rank of the plan. Raises TransientError as `take_part` does."""
    began = time.monotonic()

    def act(group: Group) -> None:
        place = asked.place
        plan = asked.model_copy(update={"compute": asked.compute.of_group(group.world_size)})
        with Heartbeat(place, group.rank, group.world_size) as signs, signs.watching(plan.phase.name):
            trained = reproducibly(group.device, lambda: _train(plan, group, signs))
            signs.at("behind its last step")
            _write_result(plan, trained, group, began)
            group.barrier()
            if not place.is_shared:  # nobody waits for the first rank while it uploads
                _upload_result(place, group)

    take_part(asked, act)


def take_part(plan: GroupPlan, act: Callable[[Group], None]) -> None:
    """Do one rank's part of a plan, which ends with `RESULT` at the run's place, unless it has ended before.

    Library errors are left in failure.json and do not raise: see `outcome`. Raises TransientError, which is worth
    another attempt, where ranks wait for one another in vain, and ClaimLostError where another makes the same.
    """
    place = plan.place
    if place.has(RESULT) or place.has(FAILURE):
        return
    torch.set_num_threads(threads(plan))
    try:
        with local_errors(place.folder, elsewhere=place.elsewhere):
            private_folder(place.folder)
            check_gpu(plan.compute)
            compute = plan.compute
            group = Group.join(compute.least_workers, use_gpu=compute.use_gpu, at_most=compute.most_workers)
            act(replace(group, one_disk=place.is_shared))
    except TransientError:
        raise  # for Ray, which starts the workers again
    except ClaimLostError:
        raise  # for the work place, which takes the other's
    except ReglageError as error:
        failure = {"kind": type(error).__name__, "message": str(error)}
        try:
            place.write(FAILURE, json.dumps(failure).encode())
        except (StorageError, TransientError):  # the disk may be what failed in the first place
            raise error from None


def threads(plan: GroupPlan) -> int:
    """Return the CPU threads of one worker; in this process not more than there are cores."""
    if plan.compute.threads and not plan.compute.most_workers:
        return min(plan.compute.threads, os.cpu_count() or 1)
    return plan.compute.threads or max(1, (os.cpu_count() or 1) // max(1, plan.compute.most_workers))


def _train(plan: Plan, group: Group, signs: Heartbeat) -> Trained:
    if not plan.phase.tuning.takes_steps:
        return _solve(plan, group)
    with Curves(plan.place, plan.phase.name, active=group.is_first) as log:
        loop = (PolicyLoop if getattr(plan.phase.objective, "writes", False) else Loop)(plan, group, log)
        log.total = loop.steps
        with enough_memory(loop.sized, group.device):
            trained = loop.run(signs)
    measured = peak_memory.peak(group.device) - loop.process_bytes
    predicted = _predicted(loop) if group.is_first else {}
    return replace(trained, facts={**trained.facts, **predicted, MEASURED: measured})


def _predicted(loop: PhaseLoop) -> Facts:
    try:
        return {**predict(loop.sized, checkpointed=loop.checkpoints.copied_bytes > 0).as_facts()}
    except ModelError:  # it cannot be counted
        return {}


def _solve(plan: Plan, group: Group) -> Trained:
    """Let a tuning that takes no steps find its weights, in this process."""
    started = time.monotonic()
    unread, head = build_model(plan, dropout=None)
    model = place(unread, plan.compute, "fp32", group).eval()
    (part,) = plan.parts  # what takes no steps is drawn from no mixture
    train, validation = open_part(plan, part, "train"), open_part(plan, part, "validation")
    start, beside = plan.start.folder, plan.companions
    problem = Problem(plan.phase.name, model, head, plan.labels, train, validation, start, beside)
    solved = plan.phase.tuning.solve(problem)
    seconds = time.monotonic() - started
    facts: Facts = {
        "steps": 1,
        "supervised": len(train),
        **solved,
        "samples_per_second": len(train) / seconds,
        "seconds": seconds,
        "world_size": 1,
        "precision": "fp32",
    }
    return Trained(model, State(step=1), frozenset(), facts)


def begin(plan: Plan) -> None:
    """Forget a request to stop that an earlier attempt was given, or has followed, and where its ranks were."""
    place = plan.place
    place.clear(heartbeat.FOLDER)
    place.discard(STOP)
    failure = place.read(FAILURE)
    if failure and json.loads(failure)["kind"] == Interrupted.__name__:
        place.discard(FAILURE)


def outcome(plan: GroupPlan, folder: Path | None = None) -> dict[str, float | int | str]:
    """Return the facts of a finished run; of one in a bucket, bring what it made into a folder.

    Raises the worker's own error, or TrainingError if nothing was trained.
    """
    place = plan.place
    result = place.read(RESULT)
    if failed := place.read(FAILURE):
        failure = json.loads(failed)
        place.discard(FAILURE)  # the next attempt is the user's decision, and must not find this one's failure
        if result is None:  # else it is of a machine whose claim was taken over: the result was made whole
            raise getattr(errors, failure["kind"], TrainingError)(failure["message"])
    if result is None:
        raise TrainingError(f"{plan.what}: the workers ended without a result; nothing was made")
    facts = json.loads(result)
    if place.is_shared:
        return facts
    assert folder is not None, "a run in a bucket is brought into a folder"
    place.take(facts["files"], folder, RESULT)
    return facts["facts"]


def _write_result(plan: Plan, trained: Trained, group: Group, began: float) -> None:
    """Check what was trained against what it started from, and write the model that stock transformers loads.

    Collective: each rank checks and writes what it has.
    """
    place = plan.place
    run = place.folder
    start, moves, updated = _before(plan, trained)
    check_moved(start, trained, lambda: _gradients(trained, plan, group), updated, group)
    on_first(
        lambda: _remove(model_in(run), adapter_in(run), tasks_in(run), snapshots_in(run)), group, run
    )  # of an attempt that was killed in a save
    _write_models(plan, trained, group, run, (start, moves, updated))
    for name, put in trained.snapshots.items():
        put()
        _write_models(plan, trained, group, snapshot_in(run, name), _before(plan, trained))
    facts = {
        **trained.facts,
        **{f"{SNAPSHOT}{name}": step for name, step in trained.snapshot_steps.items()},
        "trained_parameters": sum(moves.values()),
        "peak_memory_bytes": peak_memory.peak(group.device),
        "worker_seconds": round(time.monotonic() - began, 3),
    }
    if group.is_first:
        write_durably(run / RESULT, json.dumps(facts).encode())


_MADE = ("model", "adapter", "tasks", "snapshots", FILE, STARTS)


def _upload_result(place: RunPlace, group: Group) -> None:
    """Upload what the first rank has on its node's disk, the result last; then nothing is left on the disks."""
    shutil.rmtree(place.lasting.folder / FOLDER, ignore_errors=True)  # this node's parts of checkpoints
    if group.is_first:
        facts = json.loads((place.folder / RESULT).read_bytes())
        made = [name for name in _MADE if (place.folder / name).exists()]
        place.write(RESULT, result_bytes(place, facts, made))
        for name in made:  # the node's cache has them by their digests
            shutil.rmtree(place.folder / name, ignore_errors=True)


_Before = tuple[nn.Module, dict[str, int], dict[str, nn.Module]]
"""A model as it was before step 0, the sizes of what moved by name, and the modules whose statistics did."""


def _before(plan: Plan, trained: Trained) -> _Before:
    start, head = build_model(plan, dropout=None)
    if plan.phase.tuning.moves_head_only:  # solved for, so no gradient said what moves
        for name in head:
            start.get_submodule(name).requires_grad_(True)
    for name, parameter in start.named_parameters():
        if name in trained.unused:
            parameter.requires_grad_(False)
    moves = {name: p.numel() for name, p in start.named_parameters() if p.requires_grad}
    return start, moves, moving_statistics(start) if plan.phase.batch_norm == "updated" else {}


def _write_models(plan: Plan, trained: Trained, group: Group, run: Path, before: _Before) -> None:
    """Write what the model holds now, each task's alone, or the adapter; collectively. `before` is used up."""
    start, moves, updated = before
    if is_adapted(start) or bottlenecks_of(start):
        gather_into(start, trained.model, moves)
    on_first(lambda: run.mkdir(parents=True, exist_ok=True), group, run)
    if (plan.phase.tuning.leaves or plan.start.form) == "adapter":
        on_first(lambda: _save_adapter(start, plan, model_in(run)), group, run)
    else:
        on_first(lambda: plan.phase.tuning.finish(start, adapter_in(run)), group, run)
        for task, labels, folder in _folders(plan, run):
            beside: dict[str, Any] = {"labels": labels, "processor_from": plan.start.folder, "task": task}
            write_model(start, trained.model, {*moves, *_inside(updated)}, group, folder, **beside)
        if plan.start.tasks:
            folders = [folder for _, _, folder in _folders(plan, run)]
            on_first(lambda: write_shared_shards(folders, SHARD_SIZE), group, run)


def _save_adapter(start: nn.Module, plan: Plan, folder: Path) -> None:
    save_adapter(start, folder, plan.start.folder, base_of(plan.start))
    plan.phase.tuning.saved(start, folder)


def _folders(plan: Plan, run: Path) -> list[tuple[str | None, tuple[str, ...], Path]]:
    """Return the task, labels and folder of every stock model that the phase leaves in a folder."""
    of_tasks = [(task.name, task.labels, model_in(task_in(run, task.name))) for task in plan.start.tasks]
    return [*of_tasks] or [(None, plan.labels, model_in(run))]


def _remove(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _inside(modules: Mapping[str, nn.Module]) -> set[str]:
    """Return the names of the buffers of these modules."""
    return {f"{name}.{buffer}" for name, module in modules.items() for buffer, _ in module.named_buffers(recurse=False)}


_ROUNDING = 1e-5
"""Of the largest gradient: what is below is the rounding of sums that are 0 in exact arithmetic."""
_ALONE = Group(rank=0, world_size=1, device=torch.device("cpu"))


def check_moved(
    start: nn.Module,
    trained: Trained,
    gradients: Callable[[], Mapping[str, float]],
    updated: Collection[str] = (),
    group: Group = _ALONE,
) -> None:
    """Compare every parameter with its value before step 0, bit for bit; each rank what it has of it.

    Some parameters have no gradient in exact arithmetic: a bias of attention's keys moves all of a row's scores by the
    same. So what did not move is forgiven where `gradients` (the largest of each parameter at the end, asked only if
    one did not move) are nothing beside the others'. Buffers are frozen, but for those of the modules in `updated`.

    Raises TrainingError, on every rank, if a frozen one moved, a trained one did not, or one is not finite.
    """
    if not trained.state.step:
        raise TrainingError("no optimiser step was done; nothing was trained")
    still: list[str] = []
    moved = _moved_buffers(start, trained, updated)
    compared = compare(start, trained.model, group)
    for name, before in start.named_parameters():
        if not compared[name].finite:
            raise TrainingError(f"parameter {name} is not finite after training")
        same = compared[name].same
        if before.requires_grad and name not in trained.unused and same:
            still.append(name)
        if (not before.requires_grad or name in trained.unused) and not same:
            moved.append(name)
    if moved:
        raise TrainingError(f"frozen parameters moved: {some(moved)}")
    # LoRA's A has no gradient until B has moved, so one step cannot move everything.
    if still and trained.state.step > 1:
        sizes = gradients()
        largest = max(sizes.values(), default=0.0)
        still = [name for name in still if not largest or sizes[name] > _ROUNDING * largest]
    if still and trained.state.step > 1:
        raise TrainingError(
            f"{len(still)} trainable parameters did not move in {trained.state.step} steps, among them "
            f"{some(still, 3)}; steps below their rounding do that: raise optimizer.learning_rate, or lower "
            "ema_decay if it is set"
        )


def _moved_buffers(start: nn.Module, trained: Trained, updated: Collection[str]) -> list[str]:
    """Return the buffers that have other bits than before step 0, of those that are saved with the weights.

    No buffer is sharded.
    """
    saved = trained.model.state_dict().keys()
    live = dict(trained.model.named_buffers())
    frozen = [(name, b) for name, b in start.named_buffers() if name.rpartition(".")[0] not in updated]
    return [name for name, before in frozen if name in saved and not torch.equal(before, live[name].to(before.device))]


def _gradients(trained: Trained, plan: Plan, group: Group) -> dict[str, float]:
    """Return every trained parameter's largest gradient at the end of training, on rows of all lengths.

    Every rank asks about the same rows, the ranks of a sharded model together; in fp32 where all weights are in it.
    """
    model, alone = trained.model, Group(rank=0, world_size=1, device=group.device)
    collate = Collator.of(model, group.device)
    in_fp32 = shards_of(model) is None and all(p.dtype == torch.float32 for p in model.parameters())
    precision = "fp32" if in_fp32 else plan.precision
    splits, _ = stand_ins(plan.phase, [open_part(plan, part, "train") for part in plan.parts], ())
    asking = Asking(
        minimised(plan.phase, splits),
        model.eval(),
        collate,
        alone,
        companions=trained.companions,
        precision=precision,
        micro_batch_size=1,  # whatever training had room for
    )
    for split in splits:
        spread = np.linspace(0, len(split) - 1, num=min(_ROWS, len(split))).astype(np.int64)
        rows = np.argsort(split.sizes, kind="stable")[spread]
        for piece in asking.pieces(split, rows)[0]:
            asking.loss(split, piece).total.backward()
    mine = {name: _largest(p.grad) for name, p in model.named_parameters() if p.requires_grad}
    model.zero_grad(set_to_none=True)
    of_ranks = cast("list[dict[str, float]]", group.gather(mine))
    return {name: max(each[name] for each in of_ranks) for name in mine}


def _largest(gradient: torch.Tensor | None) -> float:
    own = None if gradient is None else own_part(gradient)
    return 0.0 if own is None or not own.numel() else float(own.abs().max())
