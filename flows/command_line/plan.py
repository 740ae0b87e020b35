"""`reglage plan`: what a run would do, how much is done already, and what the rest will take. See docs/plan.md."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from flows.command_line.console import stdout_console
from flows.jobs import bases, found_companions
from flows.steps import Inputs, pinned, scorings, steps
from ftlib.artifacts import Artifact
from ftlib.config import REPORT, SELECTION, Config, Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.merging.candidates import Candidates
from ftlib.models.adapter import find_any
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.stages.ingest import ingest
from ftlib.stages.preprocess import preprocess
from ftlib.stages.register import register
from ftlib.stages.score import SCORED
from ftlib.stages.step import Step, walk
from ftlib.training.phase import Phase
from ftlib.training.speed import Speed, measured_speed, training_flops
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.training.footprint import Footprint, Frozen

# The constants of the prediction; docs/plan.md says where they come from.
PROCESS_BYTES = 700_000_000
RUN_SECONDS = 15.0
RAY_SECONDS = 15.0


class StagePlan(Config):
    """One stage call of the run to come."""

    stage: str
    state: str
    """done; to do; waits, where its input is not made yet; or every run."""
    facts: str = ""


class PhasePlan(Config):
    """One training, with what it moves and takes."""

    name: str
    tuning: str
    parameters: int
    trained: int
    rows: int
    tokens: int
    steps: int
    memory_bytes: int
    """Predicted peak of one worker."""
    seconds: float
    """Predicted; 0 where it is done."""


class ScoringPlan(Config):
    """One frozen model asked about one dataset before a phase, with what it takes."""

    name: str
    parameters: int
    rows: int
    tokens: int
    memory_bytes: int
    """Predicted peak of one worker."""
    seconds: float
    """Predicted; 0 where it is done."""


class RunPlan(Config):
    """What a run would do."""

    name: str
    stages: tuple[StagePlan, ...]
    phases: tuple[PhasePlan, ...] = ()
    """Empty until the data is prepared."""
    scorings: tuple[ScoringPlan, ...] = ()
    """What frozen models compute for the phases before they train."""
    seconds: float | None = None
    """Predicted for all that is still to do; None until the data is prepared."""
    speed: str = ""
    """What the predicted times rest on."""


@dataclass
class Planner:
    """Looks up what the steps of a run would make; it trains and publishes nothing."""

    work: Workspace
    prepare: bool
    """Make the data that is not there yet: rows and tokens are known only then."""
    stages: list[StagePlan] = field(default_factory=list[StagePlan])
    prepared: dict[str, PreparedDataset] = field(default_factory=dict[str, PreparedDataset])
    needs_ray: bool = False
    """Whether something that is still to do is done by Ray workers."""

    def look(self, step: Step) -> Artifact | None:
        """Note a step; return what its stage has made, or None if that is still to do."""
        output = self._made(step)
        state = "every run" if step.stage is register else "done" if output else "to do" if step.job else "waits"
        self.stages.append(StagePlan(stage=step.label, state=state, facts=_facts(step, output)))
        self.needs_ray |= step.on_ray and not output
        if isinstance(output, PreparedDataset) and step.stage is preprocess:
            self.prepared[step.which] = output
        return output

    def _made(self, step: Step) -> Artifact | None:
        if step.job is None or step.stage is register:  # the registry is asked every time, and only by who publishes
            return None
        to_prepare = self.prepare and step.stage in (ingest, preprocess)
        return step.stage(step.job, self.work) if to_prepare or self.work.has(step.job) else None

    def done(self, *stages: str) -> bool:
        """Say whether all that some stages have to do is done."""
        return all(stage.state == "done" for stage in self.stages if stage.stage.split()[0] in stages)


def _facts(step: Step, output: Artifact | None) -> str:
    if isinstance(output, RawDataset):
        return counted(output.ledger.kept, "row")
    if isinstance(output, PreparedDataset):
        return ", ".join(f"{name} {facts.rows:,}" for name, facts in output.splits.items()) + " rows"
    if isinstance(output, Candidates):
        return counted(len(output.members), "candidate")
    return f"{'' if step.job else 'up to '}{counted(step.candidates, 'candidate')}" if step.candidates else ""


def make_plan(recipe: Recipe, work: Workspace, *, prepare: bool = False) -> RunPlan:
    """Plan a run. Raises RecipeError, ModelError or DataError where the run would."""
    model, companions = find_any(recipe.model, bases(recipe, work)), found_companions(recipe, work)
    check_resources(recipe)
    planner = Planner(work, prepare)
    walk(steps(recipe, work, Inputs(model, pinned(recipe, work), companions=companions)), planner.look)
    plan = RunPlan(name=recipe.name, stages=tuple(planner.stages))
    prepared = planner.prepared
    if len(prepared) < len(recipe.datasets):
        return plan
    from ftlib.training.footprint import footprint, frozen_beside  # torch, which what comes before does not need

    check_resources(recipe, Path(model.uri), companions)
    labels = len(check_labels(recipe, prepared))
    sizes = [footprint(model.folder, recipe.kind(phase), labels, phase.tuning) for phase in recipe.phases]
    frozen = frozen_beside(recipe.phases, sizes, recipe.kind(recipe.phases[0]), model.folder, companions, labels)
    speed = measured_speed(work, sizes[-1].hidden)
    done = {stage.stage for stage in planner.stages if stage.state == "done"}
    every = [*zip(recipe.phases, sizes, frozen, strict=True)]
    last, size, beside = every[-1]
    again = [
        (last.model_copy(update={"name": f"{last.name}-seed{n}"}), size, beside) for n in recipe.interpolation.seeds
    ]
    phases = tuple(
        _phase_plan(
            recipe, phase, size, [beside[name] for name in phase.companions], _seen(phase, prepared), speed, done
        )
        for phase, size, beside in [*every, *again]
    )
    scored = tuple(
        _scoring_plan(f"score {which}", beside[name], prepared[part], speed, done)
        for phase, _, beside in every
        for name, part, which in scorings(phase)
    )
    measuring = 0.0 if planner.done("evaluate") else _evaluation_seconds(recipe, prepared, sizes[-1], speed)
    seconds = RUN_SECONDS + planner.needs_ray * RAY_SECONDS + measuring
    seconds += sum(one.seconds for one in (*phases, *scored))
    found = {"phases": phases, "scorings": scored, "seconds": round(seconds, 1), "speed": speed.source}
    return plan.model_copy(update=found)


@dataclass(frozen=True)
class _Seen:
    """What one epoch of a phase reads."""

    rows: int
    tokens: int
    longest: int
    steps: int


def _seen(phase: Phase, prepared: dict[str, PreparedDataset]) -> _Seen:
    """Return an epoch's rows and tokens: of a mixture every part's share of as many rows as all parts have."""
    parts = [(share, prepared[name].splits["train"]) for name, share in phase.parts.items()]
    rows = sum(facts.rows for _, facts in parts)
    return _Seen(
        rows=rows,
        tokens=round(sum(rows * share * facts.tokens / max(1, facts.rows) for share, facts in parts)),
        longest=max(facts.longest for _, facts in parts),
        steps=sum(ceil(facts.rows / phase.optimizer.batch_size) for _, facts in parts),
    )


def _phase_plan(
    recipe: Recipe,
    phase: Phase,
    size: "Footprint",
    beside: "Sequence[Frozen]",
    seen: _Seen,
    speed: Speed,
    done: Collection[str],
) -> PhasePlan:
    """Plan one training; `beside` are its companions, which are held and asked and never trained."""
    solved = not phase.tuning.takes_steps
    epochs = 1.0 if solved else phase.optimizer.epochs
    per_token = 2.0 * size.computing if solved else training_flops(size.computing, min(size.trained, size.computing))
    per_token += 2.0 * sum(one.computing for one in beside)
    steps = 1 if solved else max(1, round(seen.steps * epochs))
    seconds = 0.0 if f"train {phase.name}" in done else seen.tokens * epochs * per_token / speed.flops
    return PhasePlan(
        name=phase.name,
        tuning=phase.tuning.kind,
        parameters=size.parameters,
        trained=size.trained,
        rows=seen.rows,
        tokens=seen.tokens,
        steps=steps,
        memory_bytes=_memory(recipe, phase, size, sum(one.parameters for one in beside), seen.longest),
        seconds=round(seconds, 1),
    )


def _scoring_plan(
    label: str, model: "Frozen", data: PreparedDataset, speed: Speed, done: Collection[str]
) -> ScoringPlan:
    """Plan one scoring: one forward pass over what training reads."""
    facts = [data.splits[split] for split in SCORED]
    tokens = sum(one.tokens for one in facts)
    return ScoringPlan(
        name=label,
        parameters=model.parameters,
        rows=sum(one.rows for one in facts),
        tokens=tokens,
        memory_bytes=PROCESS_BYTES + 4 * model.parameters,
        seconds=0.0 if label in done else round(tokens * 2.0 * model.computing / speed.flops, 1),
    )


def _memory(recipe: Recipe, phase: Phase, size: "Footprint", beside: int, longest: int) -> int:
    """Return the bytes of weights, gradients, Adam's moments and the average in fp32, and of activations."""
    state = 4 * (size.parameters + beside)
    if not phase.tuning.takes_steps:
        return PROCESS_BYTES + state
    batch = recipe.compute.micro_batch_size or ceil(phase.optimizer.batch_size / max(1, recipe.compute.workers))
    activations = batch * longest * size.activation_bytes
    return PROCESS_BYTES + state + (16 if phase.ema_decay else 12) * size.trained + activations


def _evaluation_seconds(recipe: Recipe, prepared: dict[str, PreparedDataset], size: "Footprint", speed: Speed) -> float:
    """Return the seconds of one forward pass per candidate and token; equal weights are measured once."""
    members: dict[Split, int] = {SELECTION: recipe.interpolation.count(), REPORT: len(recipe.phases) + 2}
    datasets = [prepared[evaluation.dataset] for evaluation in recipe.evaluations.values()]
    tokens = sum(data.splits[split].tokens * count for data in datasets for split, count in members.items())
    return tokens * 2.0 * size.computing / speed.flops


def print_plan(plan: RunPlan) -> None:
    """Print the plan as two tables and a line."""
    from rich.table import Table

    console = stdout_console()
    stages = Table("stage", "state", "", title=f"{plan.name}: stages", title_justify="left")
    for stage in plan.stages:
        style = {"done": "green", "waits": "dim"}.get(stage.state)
        stages.add_row(stage.stage, stage.state, stage.facts, style=style)
    console.print(stages)
    if plan.seconds is None:
        console.print("rows, steps, memory and time are known once the data is prepared: add --prepare")
        return
    table = Table(
        "phase", "tuning", "trained", "rows", "steps", "memory", "time", title="training", title_justify="left"
    )
    for scoring in plan.scorings:
        took = f"{scoring.seconds:.0f} s" if scoring.seconds else "done"
        memory = f"{scoring.memory_bytes / 1e9:.1f} GB"
        table.add_row(scoring.name, "", f"none of {scoring.parameters:,}", f"{scoring.rows:,}", "", memory, took)
    for phase in plan.phases:
        trained = f"{phase.trained:,} of {phase.parameters:,}"
        memory, took = f"{phase.memory_bytes / 1e9:.1f} GB", f"{phase.seconds:.0f} s" if phase.seconds else "done"
        table.add_row(phase.name, phase.tuning, trained, f"{phase.rows:,}", f"{phase.steps:,}", memory, took)
    console.print(table)
    console.print(f"about {plan.seconds:.0f} s in all; speed from {plan.speed}", soft_wrap=True)
