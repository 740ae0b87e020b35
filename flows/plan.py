"""`reglage plan`: what a run would do, how much is done already, and what the rest will take. See docs/plan.md."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.jobs import bases, found_companions, found_onto
from flows.plan_askings import answering_plan, evaluation_seconds, fisher_plans, revising_plan, scoring_plan
from flows.plan_facts import PhasePlan, RunPlan, ScoringPlan
from flows.plan_stages import Planner
from flows.plan_trainings import Sizing, by_depth, heads_of, of_shares, phase_plan, seen_by
from flows.steps import Inputs, pinned, scorings, steps
from ftlib.data.datasets import PreparedDataset
from ftlib.data.forgotten import read_requests
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import FoundModel
from ftlib.models.pruning import describe_pruned, stack_of
from ftlib.recipe.preflight import check_labels, check_tasks
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_card, check_resources
from ftlib.stages.step import walk
from ftlib.training.cards import Card, find_card
from ftlib.training.phase import ANSWERS, CRITIC, Phase
from ftlib.training.speed import EFFICIENCY, Speed, measured_speed
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.training.footprint import Footprint, Frozen


# The constants of the prediction; docs/plan.md says where they come from.
RUN_SECONDS = 15.0
RAY_SECONDS = 15.0


def make_plan(recipe: Recipe, work: Workspace, *, prepare: bool = False, card: str | None = None) -> RunPlan:
    """Plan a run, on this machine or on workers with a named card each.

    Raises RecipeError, ModelError or DataError where the run would, RecipeError for a card that is not known.
    """
    on = find_card(card) if card is not None else None
    model, companions = find_any(recipe.model, bases(recipe, work)), found_companions(recipe, work)
    if on is None:
        check_resources(recipe)
    else:
        check_card(recipe, on)
    planner = Planner(work, prepare)
    files, forgotten = pinned(recipe, work), read_requests(work)
    given = Inputs(model, files, companions=companions, onto=found_onto(recipe, work), forgotten=forgotten)
    walk(steps(recipe, work, given), planner.look)
    plan = RunPlan(name=recipe.name, stages=tuple(planner.stages))
    if len(planner.prepared) < len(recipe.datasets):
        return plan
    if on is None:
        check_resources(recipe, model.folder, companions)
    return plan.model_copy(update=_of_prepared(recipe, planner, model, companions, on))


def _of_prepared(
    recipe: Recipe,
    planner: Planner,
    model: FoundModel,
    companions: Mapping[str, Mapping[str, FoundModel]],
    on: Card | None,
) -> dict[str, Any]:
    """Return the fields of a plan that are known once the data is prepared: trainings, askings and seconds."""
    from ftlib.training.footprint import footprint, frozen_beside  # torch, which what comes before does not need

    prepared = planner.prepared
    names, of_tasks = check_labels(recipe, prepared), check_tasks(recipe, prepared)
    labels, heads = len(names), heads_of(recipe, of_tasks)
    folder = _without_layers(recipe, model.folder, planner.work)
    sizes = [footprint(folder, recipe.kind(phase), labels, phase.tuning, heads) for phase in recipe.phases]
    frozen = frozen_beside(recipe.phases, sizes, recipe.answering_kind, model.folder, companions, labels)
    speed = _speed(recipe, on, planner.work, sizes[-1])
    done = {stage.stage for stage in planner.stages if stage.state == "done"}
    sizing = Sizing(recipe, on, folder, model.folder, names, of_tasks, companions, prepared)
    every = [*zip(recipe.phases, sizes, frozen, strict=True)]
    trained = _trainings(recipe, planner, every, sizing, speed, done)
    asked = (*_askings(every, prepared, speed, done), *fisher_plans(recipe, prepared, sizes, speed, done))
    measuring = 0.0 if planner.done("evaluate") else evaluation_seconds(recipe, prepared, sizes[-1], speed)
    seconds = RUN_SECONDS + planner.needs_ray * RAY_SECONDS + measuring
    seconds += sum(one.seconds for one in (*trained, *asked))
    return {"phases": trained, "scorings": asked, "seconds": round(seconds, 1), "speed": speed.source}


def _trainings(
    recipe: Recipe,
    planner: Planner,
    every: "Sequence[tuple[Phase, Footprint, Mapping[str, Frozen]]]",
    sizing: Sizing,
    speed: Speed,
    done: Collection[str],
) -> tuple[PhasePlan, ...]:
    """Return every phase's training, then those with other seeds and those on shares of the rows."""

    def phase_plans(done: Collection[str]) -> list[PhasePlan]:
        return [
            phase_plan(
                phase,
                size,
                [beside[name] for name in phase.companions],
                seen_by(phase, planner.prepared, sizing.steps(phase)),
                speed,
                done,
                sizing.of(phase, planner.trained.get(phase.name)),
            )
            for phase, size, beside in every
        ]

    planned = [
        by_depth(one, phase, size, sizing, seen_by(phase, planner.prepared, sizing.steps(phase)), speed)
        if phase.tuning.unfreezes
        else one
        for one, (phase, size, _) in zip(phase_plans(done), every, strict=True)
    ]
    again = [planned[-1].model_copy(update={"name": f"{planned[-1].name}-seed{n}"}) for n in recipe.interpolation.seeds]
    again += of_shares(recipe, phase_plans(()), done) if recipe.learning_curve else []
    return (*planned, *again)


def _askings(
    every: "Sequence[tuple[Phase, Footprint, Mapping[str, Frozen]]]",
    prepared: dict[str, PreparedDataset],
    speed: Speed,
    done: Collection[str],
) -> Iterator[ScoringPlan]:
    """Yield what models are asked before each phase: scores, then answers, then drafts and their revisions."""
    for phase, _, beside in every:
        for name, part, which in scorings(phase):
            yield scoring_plan(f"score {which}", beside[name], prepared[part], speed, done, phase)
    for phase, _, beside in every:
        if asked := phase.answers:
            for part in phase.parts:
                label = f"answer {part} for {phase.name}"
                yield answering_plan(label, beside[ANSWERS], prepared[part], asked, speed, done)
    for phase, size, beside in every:
        if by := phase.principles:
            for part in phase.parts:
                label, critic = f"revise {part} for {phase.name}", beside.get(CRITIC)
                yield revising_plan(label, size, critic, prepared[part], by, speed, done)


def _without_layers(recipe: Recipe, model: Path, work: Workspace) -> Path:
    """Return a folder that describes the model which the first phase starts from; which layers went changes no size."""
    if recipe.prune is None:
        return model
    depth = stack_of(model).depth
    folder = work.root / "plans" / f"{recipe.name}-pruned"
    describe_pruned(model, folder, range(depth - recipe.prune.number(depth), depth))
    return folder


def _speed(recipe: Recipe, card: Card | None, work: Workspace, size: "Footprint") -> Speed:
    if card is None or card.bf16_flops is None:
        return measured_speed(work, size.hidden)
    workers = max(1, recipe.compute.least_workers)
    source = f"the data sheet of {card.name}: {card.bf16_flops / 1e12:.0f} TFLOP/s in bf16, {EFFICIENCY:.0%} of it"
    return Speed(flops=EFFICIENCY * card.bf16_flops * workers, source=source)
<<<<<<< HEAD
=======


@dataclass(frozen=True)
class _Sizing:
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
        from ftlib.training.memory import MEASURED, fitting, predict

        sized, room = self._sized(phase), room_of(self.recipe.compute, self.card)
        fields: dict[str, Any] = {"precision": sized.precision, "rows_at_a_time": sized.rows, "room_bytes": room}
        fields["measured_bytes"] = trained.facts.get(MEASURED) if trained else None
        try:
            memory = predict(sized)
            near = None if memory.total <= room else fitting(sized, room)
        except ModelError as error:
            memory = predict(sized, passes=False)
            fits = f"unknown, beside {in_bytes(memory.total)} that are held at least: {error}"
            return {**fields, "memory": memory.model_dump(), "memory_bytes": memory.total, "fits": fits}
        fits = "yes" if memory.total <= room else f"with {near}" if near else "no"
        return {**fields, "memory": memory.model_dump(), "memory_bytes": memory.total, "fits": fits}

    def thawing(self, phase: Phase, steps_per_epoch: int) -> "tuple[Thawing, dict[str, int], dict[str, int]]":
        """Return when what trains begins to, and the sizes of all parameters, and of those that multiply tokens."""
        from ftlib.kinds.loading import head_modules
        from ftlib.models.parameter_names import is_embedding
        from ftlib.training.footprint import shapes_of
        from ftlib.training.thawing import Thawing

        model = shapes_of(self.model, self.recipe.kind(phase), len(self.labels), phase)
        thaws = phase.tuning.thaws(model, head_modules(model), steps_per_epoch)
        sizes = {name: p.numel() for name, p in model.named_parameters()}
        tables = {name for name, p in model.named_parameters() if is_embedding(name) and p.dim() > 1}
        return Thawing.of(model, thaws), sizes, {n: 0 if n in tables else size for n, size in sizes.items()}

    def _sized(self, phase: Phase) -> "Sized":
        """Return a phase with its model, data and compute, as the prediction takes it."""
        from ftlib.training.footprint import shapes_of, without_weights
        from ftlib.training.memory import Sized
        from ftlib.training.objectives.policy import START
        from ftlib.training.rollouts import stand_ins

        kind, labels = self.recipe.kind(phase), len(self.labels)
        models = self.companions.get(phase.name, {})
        compute = self.recipe.compute
        if not phase.tuning.takes_steps:
            compute = compute.model_copy(update={"workers": 0})
        writes: bool = getattr(phase.objective, "writes", False)
        answered: BatchKind | None = getattr(phase.objective, "companions_answer", None)
        asked: tuple[BatchKind, int] = (answered, 0) if answered else (kind, labels)
        train, validation = stand_ins(phase, self._splits(phase, "train"), self._splits(phase, "validation"))
        waited = {name: KINDS[kind].head().numbers(labels) for name in phase.scores}
        return Sized(
            model=shapes_of(self.model, kind, labels, phase, _heads(self.recipe, self.tasks)),
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
        from ftlib.training.batches import epoch_batches
        from ftlib.training.rollouts import prompt_lengths

        splits = self._splits(phase, "train")
        sizes = [split.sizes for split in splits]
        if asked := phase.principles:
            sizes = [2 * (prompt_lengths(one) + asked.max_new_tokens).repeat(_principles(phase)) for one in splits]
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
class _Seen:
    """What one epoch of a phase reads."""

    rows: int
    tokens: int
    steps: int


def _seen(phase: Phase, prepared: dict[str, PreparedDataset], steps: int) -> _Seen:
    """Return an epoch's rows and tokens: of a mixture every part's share of as many rows as all parts have."""
    parts = [(share, prepared[name].splits["train"]) for name, share in phase.shares(prepared).items()]
    rows = sum(facts.rows for _, facts in parts)
    tokens = sum(rows * share * facts.tokens / max(1, facts.rows) for share, facts in parts)
    rows, tokens = _written(phase, rows, tokens)
    return _Seen(rows=rows, tokens=round(tokens), steps=steps)


def _written(phase: Phase, rows: int, tokens: float) -> tuple[int, float]:
    """Return the rows and tokens that a phase learns from where a model writes them first.

    At most: answers may end before, prompts have one of their own, and not each draft is revised.
    """
    if phase.principles:
        pairs = _principles(phase)
        return rows * pairs, 2 * pairs * (tokens + rows * phase.principles.max_new_tokens)
    if isinstance(phase.objective, PolicyObjective):
        return rows, phase.objective.group_size * (tokens + rows * phase.objective.max_new_tokens)
    return rows, tokens


def _principles(phase: Phase) -> int:
    """Return how many pairs principles may make of a prompt."""
    return len(read_principles(phase.principles.file)) if phase.principles else 0


def _phase_plan(
    phase: Phase,
    size: "Footprint",
    beside: "Sequence[Frozen]",
    seen: _Seen,
    speed: Speed,
    done: Collection[str],
    memory: Mapping[str, Any],
) -> PhasePlan:
    """Plan one training; `beside` are its companions, which are held and asked and never trained."""
    solved = not phase.tuning.takes_steps
    epochs = 1.0 if solved else phase.optimizer.epochs
    per_token = 2.0 * size.computing if solved else training_flops(size.computing, min(size.trained, size.computing))
    per_token += 2.0 * sum(one.computing for one in beside)
    if isinstance(phase.objective, PolicyObjective):
        per_token += 3 * 2.0 * size.computing  # answers are drawn, and asked about: of the model, and of its start
    steps = 1 if solved else max(1, round(seen.steps * epochs))
    done_before = f"train {phase.name}" in done
    seconds = 0.0 if done_before else max(0.1, seen.tokens * epochs * per_token / speed.flops)
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


def _by_depth(
    plan: PhasePlan, phase: Phase, size: "Footprint", sizing: _Sizing, seen: _Seen, speed: Speed
) -> PhasePlan:
    """Plan the stages of a training whose layers begin to learn one after another."""
    thawing, sizes, computing = sizing.thawing(phase, max(1, seen.steps))
    whole, tokens = sum(computing.values()), seen.tokens / max(1, seen.steps)
    thaws: list[ThawPlan] = []
    for begin, end in zip(thawing.borders, (*thawing.borders[1:], plan.steps), strict=True):
        steps = max(0, min(end, plan.steps) - begin)
        learning = size.computing * thawing.trained(computing, begin) / whole
        seconds = steps * tokens * thawing_flops(size.computing, learning) / speed.flops if plan.seconds else 0.0
        trained = thawing.trained(sizes, begin)
        thaws.append(ThawPlan(step=begin + 1, steps=steps, trained=trained, seconds=round(seconds, 1)))
    seconds = max(0.1, round(sum(one.seconds for one in thaws), 1)) if plan.seconds else 0.0
    return plan.model_copy(update={"thaws": tuple(thaws), "seconds": seconds})


def _scoring_plan(
    label: str,
    model: "Frozen",
    data: PreparedDataset,
    speed: Speed,
    done: Collection[str],
    phase: Phase | None = None,
) -> ScoringPlan:
    """Plan one scoring: one forward pass over what training reads, of a phase as it is written for it."""
    facts = [data.splits[split] for split in SCORED]
    rows, tokens = sum(one.rows for one in facts), sum(one.tokens for one in facts)
    rows, tokens = _written(phase, rows, tokens) if phase else (rows, tokens)
    return ScoringPlan(
        name=label,
        parameters=model.parameters,
        rows=rows,
        tokens=round(tokens),
        memory_bytes=PROCESS["cpu"] + 4 * model.parameters,
        seconds=0.0 if label in done else round(tokens * 2.0 * model.computing / speed.flops, 1),
    )


def _answering_plan(
    label: str, model: "Frozen", data: PreparedDataset, asked: WrittenAnswers, speed: Speed, done: Collection[str]
) -> ScoringPlan:
    """Plan what a model writes in place of rows' answers: their prompts once, then a token at a time, at most."""
    seen = _scoring_plan(label, model, data, speed, done)
    written = seen.rows * asked.max_new_tokens * asked.num_beams
    more = 0.0 if label in done else written * 2.0 * model.computing / speed.flops
    return seen.model_copy(update={"tokens": seen.tokens + written, "seconds": round(seen.seconds + more, 1)})


def _revising_plan(
    label: str,
    size: "Footprint",
    critic: "Frozen | None",
    data: PreparedDataset,
    asked: Principles,
    speed: Speed,
    done: Collection[str],
) -> ScoringPlan:
    """Plan drafts, and for each principle a critique, a revision and a word on that, at most.

    What is read before each counts as what was written, with a critique's and a revision's words of the request.
    """
    count, most = len(read_principles(asked.file)), asked.max_new_tokens
    prompts = [data.splits[split] for split in SCORED]
    rows, before = sum(one.rows for one in prompts), sum(one.tokens for one in prompts)
    request = len(asked.critique) // 4  # about four characters a token
    own = before + rows * most + count * (before + rows * (3 * most + 2 * request))
    judging = count * (2 * before + rows * (3 * most + 2 * request))
    computing = critic.computing if critic else size.computing
    flops = 2.0 * (own * size.computing + judging * computing)
    parameters = size.parameters + (critic.parameters if critic else 0)
    return ScoringPlan(
        name=label,
        parameters=parameters,
        rows=rows,
        tokens=own + judging,
        memory_bytes=PROCESS["cpu"] + 4 * parameters,
        seconds=0.0 if label in done else round(flops / speed.flops, 1),
    )


def _fisher_plans(
    recipe: Recipe,
    prepared: Mapping[str, PreparedDataset],
    sizes: "Sequence[Footprint]",
    speed: Speed,
    done: Collection[str],
) -> tuple[ScoringPlan, ...]:
    """Plan a pass forward and back, row by row, for each Fisher information that is measured.

    A worker holds the weights, a gradient and the sum of squares: with fsdp its shard of them.
    """
    phases = zip(recipe.phases, sizes, strict=True)
    asked = [(f"fisher for {phase.name}", phase.penalty.keeps, size) for phase, size in phases if phase.penalty]
    if recipe.publish.fisher:
        kept = Kept(recipe.publish.fisher.datasets, recipe.publish.fisher.rows)
        asked.append(("fisher to publish", kept, sizes[-1]))
    shards = max(1, recipe.compute.least_workers) if recipe.compute.sharding == "fsdp" else 1
    plans: list[ScoringPlan] = []
    for label, kept, size in asked:
        if kept is None or not kept.datasets:  # what the base model carries is read
            continue
        facts = [prepared[name].splits["train"] for name in kept.datasets]
        rows = [min(kept.rows, one.rows) for one in facts]
        tokens = sum(count * one.tokens / max(1, one.rows) for count, one in zip(rows, facts, strict=True))
        seconds = tokens * training_flops(size.computing, size.computing) / speed.flops
        plans.append(
            ScoringPlan(
                name=label,
                parameters=size.parameters,
                rows=sum(rows),
                tokens=round(tokens),
                memory_bytes=PROCESS["cuda" if recipe.compute.use_gpu else "cpu"] + 3 * 4 * size.parameters // shards,
                seconds=0.0 if label in done else round(seconds, 1),
            )
        )
    return tuple(plans)


def _evaluation_seconds(recipe: Recipe, prepared: dict[str, PreparedDataset], size: "Footprint", speed: Speed) -> float:
    """Return the seconds of one forward pass per candidate and token; equal weights are measured once.

    A language model's distance from the start is two more for each candidate but the start.
    """
    again = len(recipe.learning_curve.trainings()) if recipe.learning_curve else 0
    members: dict[Split, int] = {SELECTION: recipe.interpolation.count(), REPORT: len(recipe.phases) + 2 + again}
    datasets = [prepared[evaluation.dataset] for evaluation in recipe.evaluations.values()]
    tokens = sum(data.splits[split].tokens * count for data in datasets for split, count in members.items())
    if recipe.select.divergence:
        data = prepared[recipe.evaluations[recipe.select.divergence.partition("/")[0]].dataset]
        passes = 2 * (members[SELECTION] - 1) if KINDS[data.kind].diverges_by == "token" else 0
        tokens += data.splits[SELECTION].tokens * passes
    return tokens * 2.0 * size.computing / speed.flops
>>>>>>> main
