"""One phase of training: a checkpoint to a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from ftlib.config import Name
from ftlib.data.datasets import PreparedDataset
from ftlib.data.formats import Format
from ftlib.errors import RecipeError
from ftlib.fingerprint import Job, digest
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import adapter_digest, read_base
from ftlib.models.checkpoint import Base, Checkpoint, FoundModel, Snapshot, model_in, snapshot_in, task_in
from ftlib.models.companion import check_companion
from ftlib.models.folder import config_digest, is_adapter, weights_digest
from ftlib.training.checkpoints.run_place import RunPlace, attempt_of
from ftlib.training.compute import Compute
from ftlib.training.curves import FILE as FOLLOWED
from ftlib.training.curves import STOP
from ftlib.training.fisher.record import FILE, Fisher
from ftlib.training.mixture import Mixture
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.training.resources import in_this_process
from ftlib.workspace import Workspace


class TrainJob(Job):
    """What to train, from where, on what. `precision` is the phase's, with `auto` resolved.

    The phase's companions are in `companions`, as the bytes they are, and not in `phase`, as the paths they were at.
    """

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 2
    introduced: ClassVar[Mapping[str, object]] = {"companions": {}, "fisher": None, "tasks": (), "formats": {}}
    runtime: ClassVar[frozenset[str]] = frozenset({"scored_by_start"})

    start: Checkpoint
    data: PreparedDataset | Mixture
    tasks: tuple[Name | None, ...] = ()
    """Of several tasks, which one each part's rows are of."""
    phase: Phase
    precision: Literal["fp32", "bf16"]
    seed: int
    compute: Compute
    companions: dict[Name, FoundModel | Checkpoint] = {}
    formats: dict[Name, Format] = {}
    """How companions are asked that read other rows than the phase's: as the phase that made them was taught."""
    scored_by_start: tuple[Name, ...] = ()
    """Which of the scores that the rows bring are of `start` itself: a check, which changes no result."""
    fisher: Fisher | None = None
    """What the phase's penalty weighs weights by, where it does."""

    @property
    def shares(self) -> dict[str, float]:
        """Return how much of each part is seen, by name."""
        return self.phase.shares(dict(zip(self.phase.parts, self.parts, strict=True)))

    @property
    def parts(self) -> tuple[PreparedDataset, ...]:
        """Return the datasets that it trains on, in the order of the phase's parts."""
        return self.data.parts if isinstance(self.data, Mixture) else (self.data,)

    def needs_ray(self) -> bool:
        """Say whether this phase runs on Ray workers."""
        return runs_on_ray(self.phase, self.compute)


def runs_on_ray(phase: Phase, compute: Compute) -> bool:
    """Say whether a phase runs on Ray workers; what is solved for, without steps, never does."""
    return compute.most_workers > 0 and phase.tuning.takes_steps


def train(job: TrainJob, work: Workspace) -> Checkpoint:
    """Train one phase, from the last checkpoint if an earlier attempt was killed.

    Raises TrainingError on a broken invariant, TransientError if workers were lost too often.
    """
    attempts: list[RunPlace] = []
    made = work.once(job, Checkpoint, lambda folder: _build(job, folder, work, attempts), resumable=True)
    for attempt in attempts[-1:]:
        attempt.end()
    if made.base is None:
        return made
    # A record says no places: the job knows where the base is today.
    uri = job.start.base.uri if job.start.base else job.start.model_uri
    return made.model_copy(update={"base": made.base.model_copy(update={"uri": uri})})


def _check_packs(job: TrainJob) -> None:
    """Raise RecipeError where a pack is shorter than a row: what a pack holds is what a forward pass may cost."""
    most = job.compute.pack_tokens
    if most is None or not job.phase.tuning.takes_steps:
        return
    for name, data in zip(job.phase.parts, job.parts, strict=True):
        longest = max(data.splits[split].longest for split in ("train", "validation"))
        if longest > most:
            raise RecipeError(
                f"compute.pack_tokens: {most}, but the longest row of dataset {name!r} has {longest} tokens; raise it "
                f"to {longest} or more, or lower the format's max_tokens"
            )


def _check_fresh_head(job: TrainJob) -> None:
    """Raise RecipeError where a head that is still random would stay so: an adapter copies no vocabulary to train."""
    kind = KINDS[job.parts[0].kind]
    if job.start.fresh_head and job.phase.tuning.makes_adapter and kind.vocabulary:
        raise RecipeError(
            f"phases[{job.phase.name}].tuning: {job.phase.tuning.kind!r} trains no head of {kind.title.lower()}, and "
            "the model brings none, so it would stay random; use full, or give a model that was trained for it"
        )


def _check_companions(job: TrainJob) -> None:
    """Raise ModelError where a model beside reads other tokens, or tells other labels, than the one that trains."""
    if getattr(job.phase.objective, "writes", False):
        return  # a reward model reads texts, by a tokenizer of its own
    for name, companion in job.companions.items():
        # What a tuning asks is no head like the one that trains: it has no labels to compare.
        labels = () if name in job.phase.tuning.asks(job.parts[0].kind) else job.start.labels
        check_companion(f"phases[{job.phase.name}].companions.{name}", companion, job.start.tokenizer, labels)


def _build(job: TrainJob, folder: Path, place: Workspace, attempts: list[RunPlace]) -> Checkpoint:
    """Run the plan here or on Ray, and say in a record what the workers left."""
    from ftlib.training.worker import begin, outcome, work

    for check in (_check_packs, _check_fresh_head, _check_companions):
        check(job)
    plan = _plan(job, folder, place)
    (folder / "plan.json").write_text(json.dumps(plan.model_dump(mode="json"), indent=1))
    attempts.append(attempt := plan.place)
    begin(plan)
    if job.needs_ray():
        from ftlib.on_ray.trainer import fit

        fit(place.carried(plan), folder)
    else:
        with attempt.shown_in(folder, FOLLOWED):
            work(plan)
    facts = outcome(plan, folder)
    if attempt.is_shared:  # it would be part of the output; in a bucket nothing goes before the record
        attempt.clear("checkpoints", "ranks", "ray")
        attempt.discard(STOP)  # asked too late
    if job.fisher:
        facts |= {"fisher": job.fisher.content[:16], "fisher_rows": job.fisher.rows, "fisher_trace": job.fisher.trace}
    return _of_tasks(job, folder, facts) if job.start.tasks else _of_model(job, folder, facts)


def _plan(job: TrainJob, folder: Path, place: Workspace) -> Plan:
    """Return what the workers are told."""
    parts = zip(job.shares.items(), job.parts, job.tasks or [None] * len(job.parts), strict=True)
    return Plan(
        fingerprint=job.fingerprint,
        start=job.start,
        parts=tuple(Part(name=name, folder=part.uri, share=share, task=task) for (name, share), part, task in parts),
        run=attempt_of(place, job.fingerprint, folder),
        kms_key=place.place.kms_key,
        kind=job.parts[0].kind,
        labels=job.start.labels,
        phase=job.phase,
        precision=job.precision,
        seed=job.seed,
        compute=job.compute if job.needs_ray() else in_this_process(job.compute).model_copy(update={"workers": 0}),
        companions=job.companions,
        formats=job.formats,
        scored_by_start=job.scored_by_start,
        fisher=None if job.fisher is None else job.fisher.uri_of(Path(FILE)),
    )


def _of_model(job: TrainJob, folder: Path, facts: dict[str, float | int | str]) -> Checkpoint:
    """Return the record of the model that the workers left, with the snapshots of it on its way."""
    from ftlib.training.worker import SNAPSHOT

    taken = {name.removeprefix(SNAPSHOT): int(facts.pop(name)) for name in [*facts] if name.startswith(SNAPSHOT)}
    base = read_base(model_in(folder)) if is_adapter(model_in(folder)) else None
    return Checkpoint(
        weights=_weights(model_in(folder), base),
        parent=job.start.weights,
        tokenizer=job.start.tokenizer,
        config=config_digest(model_in(folder)),
        phase=job.phase.name,
        fresh_head=False,
        labels=job.start.labels,
        parameters=job.start.parameters,
        trained_parameters=int(facts.pop("trained_parameters")),
        facts=facts,
        form="adapter" if base else "dense",
        base=base,
        snapshots=tuple(
            Snapshot(name=name, step=step, weights=_weights(model_in(snapshot_in(folder, name)), base))
            for name, step in taken.items()
        ),
    )


def _weights(model: Path, base: Base | None) -> str:
    return adapter_digest(model, base) if base else weights_digest(model)


def _of_tasks(job: TrainJob, folder: Path, facts: dict[str, float | int | str]) -> Checkpoint:
    """Say in a record what a phase of several tasks left in a folder. A head that it did not train is as it was."""
    start = job.start
    tasks = tuple(
        task.model_copy(
            update={
                "weights": weights_digest(model_in(task_in(folder, task.name))),
                "parent": task.weights,
                "config": config_digest(model_in(task_in(folder, task.name))),
                "fresh_head": start.of_task(task.name).fresh_head and task.name not in job.tasks,
            }
        )
        for task in start.tasks
    )
    return Checkpoint(
        weights=digest([task.weights for task in tasks]),
        parent=start.weights,
        tokenizer=start.tokenizer,
        phase=job.phase.name,
        fresh_head=any(task.fresh_head for task in tasks),
        labels=(),
        parameters=start.parameters,
        trained_parameters=int(facts.pop("trained_parameters")),
        facts=facts,
        tasks=tasks,
    )
