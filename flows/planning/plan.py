"""`reglage plan`: what a run would do, how much is done already, and what the rest will take. See docs/plan.md."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.planning.askings import answering_plan, evaluation_seconds, fisher_plans, revising_plan, scoring_plan
from flows.planning.facts import PhasePlan, RunPlan, ScoringPlan
from flows.planning.stages import Planner
from flows.planning.trainings import Sizing, by_depth, heads_of, looked_up, of_seeds, of_shares, phase_plan, seen_by
from flows.run.models_beside import bases, found_companions, found_onto
from flows.run.phase_steps import scorings
from flows.run.steps import pinned, steps
from flows.run.values import Inputs
from ftlib.data.datasets import PreparedDataset
from ftlib.data.forgotten import read_requests
from ftlib.models.adapter import find_any
from ftlib.models.checkpoint import FoundModel
from ftlib.models.pruning import describe_pruned, stack_of
from ftlib.recipe.preflight import check_labels, check_tasks
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_card, check_resources
from ftlib.stages.step import walk
from ftlib.training.memory.cards import Card, find_card
from ftlib.training.phase import ANSWERS, CRITIC, Phase
from ftlib.training.speed import EFFICIENCY, Speed, measured_speed
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.training.memory.footprint import Footprint, Frozen


# The constants of the prediction; docs/plan.md says where they come from.
RUN_SECONDS = 15.0
RAY_SECONDS = 15.0


def make_plan(recipe: Recipe, work: Workspace, *, prepare: bool = False, card: str | None = None) -> RunPlan:
    """Plan a run, on this machine or on workers with a named card each.

    Raises RecipeError, ModelError or DataError where the run would, RecipeError for a card that is not known.
    """
    on = find_card(card) if card is not None else None
    model = find_any(recipe.model, bases(recipe, work))
    companions = found_companions(recipe, work, model)
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
    if on is None and recipe.compute.ray_address == "local":
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
    from ftlib.training.memory.footprint import footprint, frozen_beside  # torch, which what comes before does not need

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
    planned: list[PhasePlan] = []
    for phase, size, beside in every:
        seen = seen_by(phase, planner.prepared, sizing.steps(phase))
        companions = [beside[name] for name in phase.companions]
        memory = sizing.of(phase, planner.trained.get(phase.name))
        plan = phase_plan(phase, size, companions, seen, speed, memory)
        planned.append(by_depth(plan, phase, size, sizing, seen, speed) if phase.tuning.unfreezes else plan)
    again = (*of_seeds(recipe.interpolation.seeds, planned[-1]), *of_shares(recipe, planned))
    return tuple(looked_up(one, done) for one in (*planned, *again))


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
