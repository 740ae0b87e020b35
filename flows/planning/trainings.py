"""What is planned of trainings: rows, steps, memory and time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.planning.facts import PhasePlan, ThawPlan
from ftlib.config import BatchKind, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.errors import ModelError
from ftlib.evaluation.learning_curve import of_share
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.parameter_names import is_embedding
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import precision_on, room_of
from ftlib.storage.files import in_bytes
from ftlib.training.compute import Compute
from ftlib.training.memory.cards import Card
from ftlib.training.objectives.policy import START, PolicyObjective
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision
from ftlib.training.principles import read_principles
from ftlib.training.resources import in_this_process
from ftlib.training.speed import Speed, thawing_flops, training_flops

if TYPE_CHECKING:
    from ftlib.kinds.split import PreparedSplit
    from ftlib.training.loops.thawing import Thawing
    from ftlib.training.memory.footprint import Footprint, Frozen, Heads
    from ftlib.training.memory.prediction import Sized


def heads_of(recipe: Recipe, tasks: Mapping[str, Sequence[str]]) -> "Heads":
    """Return each task's kind and how many labels it has."""
    views = {task: recipe.of_task(task) for task in tasks}
    return {task: (one.kind(one.phases[0]), len(tasks[task])) for task, one in views.items()}


@dataclass(frozen=True)
class Sizing:
    """Predicts what phases hold, on this machine or on a card."""

    recipe: Recipe
    card: Card | None
    model: Path
    whole: Path
    """The base model before layers were removed; where none are, `model`."""
    labels: tuple[str, ...]
    tasks: Mapping[str, tuple[str, ...]]
    """The labels of every task, where there are several."""
    companions: Mapping[str, Mapping[str, FoundModel]]
    prepared: Mapping[str, PreparedDataset]

    def of(self, phase: Phase, trained: Checkpoint | None) -> dict[str, Any]:
        """Return the fields of a `PhasePlan` about memory; of a phase that is done also what was measured."""
        from ftlib.training.memory.prediction import MEASURED, fitting, predict

        sized, room = self._sized(phase), room_of(self._compute(phase), self.card)
        fields: dict[str, Any] = {"precision": sized.precision, "rows_at_a_time": sized.rows, "room_bytes": room}
        fields["measured_bytes"] = trained.facts.get(MEASURED) if trained else None
        try:
            memory = predict(sized)
            near = None if room is None or memory.total <= room else fitting(sized, room)
        except ModelError as error:
            memory = predict(sized, passes=False)
            fits = f"unknown, beside {in_bytes(memory.total)} that are held at least: {error}"
            return {**fields, "memory": memory.model_dump(), "memory_bytes": memory.total, "fits": fits}
        if room is None:
            fits = "unknown: torch sees no GPU here; name one by --card"
        else:
            fits = "yes" if memory.total <= room else f"with {near}" if near else "no"
        return {**fields, "memory": memory.model_dump(), "memory_bytes": memory.total, "fits": fits}

    def thawing(self, phase: Phase, steps_per_epoch: int) -> "tuple[Thawing, dict[str, int], dict[str, int]]":
        """Return when what trains begins to, and the sizes of all parameters, and of those that multiply tokens."""
        from ftlib.kinds.loading import head_modules
        from ftlib.training.loops.thawing import Thawing
        from ftlib.training.memory.footprint import shapes_of

        model = shapes_of(self.model, self.recipe.kind(phase), len(self.labels), phase)
        thaws = phase.tuning.thaws(model, head_modules(model), steps_per_epoch)
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        tables = {name for name, p in model.named_parameters() if is_embedding(name) and p.dim() > 1}
        return Thawing.of(model, thaws), sizes, {n: 0 if n in tables else size for n, size in sizes.items()}

    def _compute(self, phase: Phase) -> Compute:
        return self.recipe.compute if phase.tuning.takes_steps else in_this_process(self.recipe.compute)

    def _sized(self, phase: Phase) -> "Sized":
        """Return a phase with its model, data and compute, as the prediction takes it."""
        from ftlib.training.loops.rollouts import stand_ins
        from ftlib.training.memory.footprint import shapes_of, without_weights
        from ftlib.training.memory.prediction import Sized

        kind, labels = self.recipe.kind(phase), len(self.labels)
        models = self.companions.get(phase.name, {})
        compute = self._compute(phase)
        if not phase.tuning.takes_steps:
            compute = compute.model_copy(update={"workers": 0})
        writes: bool = getattr(phase.objective, "writes", False)
        answered: BatchKind | None = getattr(phase.objective, "companions_answer", None)
        asked: tuple[BatchKind, int] = (answered, 0) if answered else (kind, labels)
        train, validation = stand_ins(phase, self._splits(phase, "train"), self._splits(phase, "validation"))
        waited = {name: KINDS[kind].head().numbers(labels) for name in phase.scores}
        return Sized(
            model=shapes_of(self.model, kind, labels, phase, heads_of(self.recipe, self.tasks)),
            phase=phase,
            compute=compute if self.card is None else compute.model_copy(update={"use_gpu": True}),
            precision=precision_on(self.card, phase) if self.card else resolve_precision(phase, compute),
            train=[split.awaiting(waited) for split in train],
            validation=[split.awaiting(waited) for split in validation],
            companions={
                **{
                    name: without_weights(models[name].folder if name in models else self.whole, *asked)
                    for name in phase.companions
                },
                **({START: without_weights(self.whole, kind, labels)} if writes else {}),
            },
        )

    def steps(self, phase: Phase) -> int:
        """Return the optimiser steps of one epoch of a phase."""
        from ftlib.training.loops.batches import epoch_batches
        from ftlib.training.loops.rollouts import prompt_lengths

        splits = self._splits(phase, "train")
        sizes = [split.sizes for split in splits]
        if asked := phase.principles:
            sizes = [2 * (prompt_lengths(one) + asked.max_new_tokens).repeat(principles_of(phase)) for one in splits]
        optimizer = phase.optimizer
        return sum(epoch_batches(sizes, optimizer.batch_size, self.recipe.seed, optimizer.batch_tokens))

    def _splits(self, phase: Phase, split: Split) -> "list[PreparedSplit]":
        from ftlib.kinds.open_split import open_split, open_splits

        files = {name: split_file(self.prepared[name].path, split) for name in phase.parts}
        tasks = {name: self.recipe.datasets[name].task for name in files}
        labels = {name: self.labels if task is None else self.tasks[task] for name, task in tasks.items()}
        first = next(iter(files))
        if phase.mixes_rows and split == "train":
            return [open_splits([*files.values()], labels[first], tasks[first])]
        return [open_split(file, labels[name], tasks[name]) for name, file in files.items()]


@dataclass(frozen=True)
class Seen:
    """What one epoch of a phase reads."""

    rows: int
    tokens: int
    steps: int


def seen_by(phase: Phase, prepared: dict[str, PreparedDataset], steps: int) -> Seen:
    """Return an epoch's rows and tokens: of a mixture every part's share of as many rows as all parts have."""
    parts = [(share, prepared[name].splits["train"]) for name, share in phase.shares(prepared).items()]
    rows = sum(facts.rows for _, facts in parts)
    tokens = sum(rows * share * facts.tokens / max(1, facts.rows) for share, facts in parts)
    rows, tokens = written_for(phase, rows, tokens)
    return Seen(rows=rows, tokens=round(tokens), steps=steps)


def written_for(phase: Phase, rows: int, tokens: float) -> tuple[int, float]:
    """Return the rows and tokens that a phase learns from where a model writes them first.

    At most: answers may end before, prompts have one of their own, and not each draft is revised.
    """
    if phase.principles:
        pairs = principles_of(phase)
        return rows * pairs, 2 * pairs * (tokens + rows * phase.principles.max_new_tokens)
    if isinstance(phase.objective, PolicyObjective):
        return rows, phase.objective.group_size * (tokens + rows * phase.objective.max_new_tokens)
    return rows, tokens


def principles_of(phase: Phase) -> int:
    """Return how many pairs principles may make of a prompt."""
    return len(read_principles(phase.principles.file)) if phase.principles else 0


def phase_plan(
    phase: Phase,
    size: "Footprint",
    beside: "Sequence[Frozen]",
    seen: Seen,
    speed: Speed,
    memory: Mapping[str, Any],
) -> PhasePlan:
    """Plan one training as still to do; `beside` are its companions, which are held and asked and never trained."""
    solved = not phase.tuning.takes_steps
    epochs = 1.0 if solved else phase.optimizer.epochs
    per_token = 2.0 * size.computing if solved else training_flops(size.computing, min(size.trained, size.computing))
    per_token += 2.0 * sum(one.computing for one in beside)
    if isinstance(phase.objective, PolicyObjective):
        per_token += 3 * 2.0 * size.computing  # answers are drawn, and asked about: of the model, and of its start
    steps = 1 if solved else max(1, round(seen.steps * epochs))
    seconds = max(0.1, seen.tokens * epochs * per_token / speed.flops)
    return PhasePlan(
        name=phase.name,
        tuning=phase.tuning.kind,
        parameters=size.parameters,
        trained=size.trained,
        rows=seen.rows,
        tokens=seen.tokens,
        steps=steps,
        seconds=round(seconds, 1),
        **memory,
    )


def looked_up(plan: PhasePlan, done: Collection[str]) -> PhasePlan:
    """Return a training's plan as it is where the training is among the stages that are done."""
    if f"train {plan.name}" not in done:
        return plan
    thaws = tuple(thaw.model_copy(update={"seconds": 0.0}) for thaw in plan.thaws)
    return plan.model_copy(update={"seconds": 0.0, "thaws": thaws, "done": True})


def of_seeds(seeds: Sequence[int], last: PhasePlan) -> list[PhasePlan]:
    """Return the last phase's trainings with other seeds."""
    return [last.model_copy(update={"name": f"{last.name}-seed{seed}", "measured_bytes": None}) for seed in seeds]


def of_shares(recipe: Recipe, planned: Sequence[PhasePlan]) -> list[PhasePlan]:
    """Return the trainings of a learning curve: each is its phase's with a share of the rows, steps and time."""
    again: list[PhasePlan] = []
    for share, seed in recipe.learning_curve.trainings() if recipe.learning_curve else ():
        for phase in planned[-len(recipe.learning_phases) :]:
            name = of_share(phase.name, share) + ("" if seed is None else f"-seed{seed}")
            less = {field: round(share * getattr(phase, field)) for field in ("rows", "tokens", "steps")}
            unlike = {"name": name, "seconds": share * phase.seconds, "thaws": (), "measured_bytes": None}
            again.append(phase.model_copy(update={**less, **unlike}))
    return again


def by_depth(plan: PhasePlan, phase: Phase, size: "Footprint", sizing: Sizing, seen: Seen, speed: Speed) -> PhasePlan:
    """Plan the stages of a training whose layers begin to learn one after another."""
    thawing, sizes, computing = sizing.thawing(phase, max(1, seen.steps))
    whole, tokens = sum(computing.values()), seen.tokens / max(1, seen.steps)
    thaws: list[ThawPlan] = []
    for begin, end in zip(thawing.borders, (*thawing.borders[1:], plan.steps), strict=True):
        steps = max(0, min(end, plan.steps) - begin)
        learning = size.computing * thawing.trained(computing, begin) / whole
        seconds = steps * tokens * thawing_flops(size.computing, learning) / speed.flops
        trained = thawing.trained(sizes, begin)
        thaws.append(ThawPlan(step=begin + 1, steps=steps, trained=trained, seconds=round(seconds, 1)))
    seconds = max(0.1, round(sum(one.seconds for one in thaws), 1))
    return plan.model_copy(update={"thaws": tuple(thaws), "seconds": seconds})
