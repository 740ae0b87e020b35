"""`reglage plan`: what a run would do, how much is done already, and what the rest will take. See docs/plan.md."""

from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from flows import jobs
from flows.command_line.console import stdout_console
from ftlib.config import REPORT, SELECTION, Config, Split
from ftlib.data.datasets import PreparedDataset, RawDataset, SplitFacts
from ftlib.data.sources.pins import pin
from ftlib.evaluation.measured import EvalReport
from ftlib.fingerprint import Job
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import find_model
from ftlib.recipe.preflight import check_labels
from ftlib.recipe.recipe import Recipe
from ftlib.recipe.resources import check_resources
from ftlib.stages.evaluate import evaluate
from ftlib.stages.ingest import ingest
from ftlib.stages.interpolate import interpolate, scores_so_far
from ftlib.stages.preprocess import preprocess
from ftlib.stages.select import select
from ftlib.training.phase import Phase
from ftlib.training.speed import Speed, measured_speed, training_flops
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.training.footprint import Footprint

# The constants of the prediction; docs/plan.md says where they come from.
ACTIVATION_BYTES = 68  # per token, hidden unit and layer
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


class RunPlan(Config):
    """What a run would do."""

    name: str
    stages: tuple[StagePlan, ...]
    phases: tuple[PhasePlan, ...] = ()
    """Empty until the data is prepared."""
    seconds: float | None = None
    """Predicted for all that is still to do; None until the data is prepared."""
    speed: str = ""
    """What the predicted times rest on."""


@dataclass
class Planner:
    """Walks a recipe as `finetune` does, as far as what earlier runs made allows; it trains and writes nothing."""

    recipe: Recipe
    work: Workspace
    model: FoundModel
    prepare: bool
    """Make the data that is not there yet: rows and tokens are known only then."""
    stages: list[StagePlan] = field(default_factory=list[StagePlan])

    def data(self) -> dict[str, PreparedDataset]:
        """Return the datasets that are prepared."""
        raw: dict[str, RawDataset] = {}
        for name in self.recipe.datasets:
            job = jobs.ingest_job(self.recipe, name, pin(self.recipe.datasets[name].source, self.work))
            found = ingest(job, self.work) if self.prepare else self.work.find(job, RawDataset)
            if found:
                raw[name] = found
            self.note(f"ingest {name}", job, counted(found.ledger.kept, "row") if found else "")
        prepared: dict[str, PreparedDataset] = {}
        for name in self.recipe.datasets:
            if len(raw) < len(self.recipe.datasets):
                self.note(f"preprocess {name}", None)
                continue
            job = jobs.preprocess_job(self.recipe, name, raw, self.model)
            found = preprocess(job, self.work) if self.prepare else self.work.find(job, PreparedDataset)
            if found:
                prepared[name] = found
            self.note(f"preprocess {name}", job, _split_facts(found) if found else "")
        return prepared

    def trail(self, prepared: dict[str, PreparedDataset]) -> list[Checkpoint]:
        """Return the checkpoints that exist already, from the base model on."""
        trail: list[Checkpoint] = []
        if len(prepared) == len(self.recipe.datasets):
            job = jobs.base_job(self.recipe, self.model, check_labels(self.recipe, prepared))
            self.note("base", job)
            trail += self._found(job)
        else:
            self.note("base", None)
        for i, phase in enumerate(self.recipe.phases):
            job = jobs.train_job(self.recipe, phase, trail[i], prepared) if len(trail) > i else None
            self.note(f"train {phase.name}", job)
            trail += self._found(job)
        return trail

    def rest(self, trail: list[Checkpoint], prepared: dict[str, PreparedDataset]) -> None:
        """Note what follows training."""
        r = self.recipe
        job, count = None, r.interpolation.count()
        siblings = self._siblings(trail, prepared)
        if siblings is not None:
            job = jobs.interpolate_job(r, trail, siblings)
        self.note("interpolate", job, f"{'up to ' if r.interpolation.adaptive else ''}{counted(count, 'candidate')}")
        candidates = interpolate(job, self.work) if job and self.work.has(job) else None
        count = len(candidates.members) if candidates else count
        sweep = self._measured(candidates and candidates.members, prepared, SELECTION, count)
        while candidates and sweep and siblings is not None and r.interpolation.adaptive:
            known, scores = candidates.members, scores_so_far(candidates, sweep, r, self.work)
            job = jobs.interpolate_job(r, trail, siblings, scores)
            candidates = interpolate(job, self.work) if self.work.has(job) else None
            new = [member for member in candidates.members if member not in known] if candidates else []
            if not new:
                break
            more = self._measured(tuple(new), prepared, SELECTION, len(new))
            sweep = more and sweep + more
        job = None
        if candidates and sweep:
            job = jobs.select_job(r, candidates, sweep)
        self.note("select", job)
        selection = select(job, self.work) if job and self.work.has(job) else None
        finalists = selection and (*map(Candidate.of, trail), selection.chosen)
        self._measured(finalists, prepared, REPORT, len(r.phases) + 2)
        self.stages.append(StagePlan(stage="report and register", state="every run", facts="cheap"))

    def _siblings(self, trail: list[Checkpoint], prepared: dict[str, PreparedDataset]) -> list[Checkpoint] | None:
        """Note the fine-tunes beside the last phase; return them, or None if some are not made yet."""
        r = self.recipe
        ready = len(trail) == len(r.phases) + 1
        found = jobs.found_siblings(r, self.work) if ready else []
        for seed in r.interpolation.seeds:
            start = trail[len(r.phases) - 1] if len(trail) >= len(r.phases) else None
            job = jobs.train_job(r, r.phases[-1], start, prepared, seed) if start else None
            self.note(f"train {r.phases[-1].name}-seed{seed}", job)
            found += [jobs.sibling_of(checkpoint, seed) for checkpoint in self._found(job)]
        wanted = len(r.interpolation.seeds) + len(r.interpolation.siblings)
        return found if ready and len(found) == wanted else None

    def _measured(
        self, members: tuple[Candidate, ...] | None, prepared: dict[str, PreparedDataset], split: Split, count: int
    ) -> tuple[EvalReport, ...] | None:
        """Note the evaluations of one split; return their reports if all are there."""
        if members is None:
            for name in self.recipe.evaluations:
                self.note(f"evaluate {name} {split}", None, counted(count, "candidate"))
            return None
        wanted = jobs.evaluate_jobs(self.recipe, members, prepared, split)
        for job in wanted:
            self.note(f"evaluate {job.name} {split}", job, counted(count, "candidate"))
        return tuple(evaluate(job, self.work) for job in wanted) if all(map(self.work.has, wanted)) else None

    def note(self, stage: str, job: Job | None, facts: str = "") -> None:
        """Add one line to the plan."""
        state = "waits" if job is None else "done" if self.work.has(job) else "to do"
        self.stages.append(StagePlan(stage=stage, state=state, facts=facts))

    def _found(self, job: Job | None) -> list[Checkpoint]:
        found = job and self.work.find(job, Checkpoint)
        return [found] if found else []


def make_plan(recipe: Recipe, work: Workspace, *, prepare: bool = False) -> RunPlan:
    """Plan a run. Raises RecipeError, ModelError or DataError where the run would."""
    planner = Planner(recipe, work, find_model(recipe.model), prepare)
    check_resources(recipe)
    prepared = planner.data()
    trail = planner.trail(prepared)
    planner.rest(trail, prepared)
    plan = RunPlan(name=recipe.name, stages=tuple(planner.stages))
    if len(prepared) < len(recipe.datasets):
        return plan
    from ftlib.training.footprint import footprint  # torch, which what comes before does not need

    check_resources(recipe, Path(planner.model.uri))
    labels = len(check_labels(recipe, prepared))
    last = recipe.phases[-1]
    again = [last.model_copy(update={"name": f"{last.name}-seed{seed}"}) for seed in recipe.interpolation.seeds]
    trainings = [*recipe.phases, *again]
    sizes = [footprint(Path(planner.model.uri), phase.objective.needs, labels, phase.tuning) for phase in trainings]
    speed = measured_speed(work, sizes[-1].hidden)
    done = {stage.stage for stage in planner.stages if stage.state == "done"}
    phases = tuple(
        _phase_plan(
            recipe, phase, size, prepared[phase.dataset].splits["train"], speed, done=f"train {phase.name}" in done
        )
        for phase, size in zip(trainings, sizes, strict=True)
    )
    measuring = 0.0 if len(trail) > len(recipe.phases) else _evaluation_seconds(recipe, prepared, sizes[-1], speed)
    needs_ray = recipe.compute.workers > 0 and any(
        planned.seconds and phase.tuning.takes_steps for planned, phase in zip(phases, trainings, strict=True)
    )
    seconds = RUN_SECONDS + needs_ray * RAY_SECONDS + measuring + sum(phase.seconds for phase in phases)
    return plan.model_copy(update={"phases": phases, "seconds": round(seconds, 1), "speed": speed.source})


def _phase_plan(
    recipe: Recipe, phase: Phase, size: "Footprint", rows: SplitFacts, speed: Speed, *, done: bool
) -> PhasePlan:
    solved = not phase.tuning.takes_steps
    epochs = 1.0 if solved else phase.optimizer.epochs
    per_token = 2.0 * size.computing if solved else training_flops(size.computing, min(size.trained, size.computing))
    steps = 1 if solved else max(1, round(ceil(rows.rows / phase.optimizer.batch_size) * epochs))
    seconds = 0.0 if done else rows.tokens * epochs * per_token / speed.flops
    return PhasePlan(
        name=phase.name,
        tuning=phase.tuning.kind,
        parameters=size.parameters,
        trained=size.trained,
        rows=rows.rows,
        tokens=rows.tokens,
        steps=steps,
        memory_bytes=_memory(recipe, phase, size, rows),
        seconds=round(seconds, 1),
    )


def _memory(recipe: Recipe, phase: Phase, size: "Footprint", rows: SplitFacts) -> int:
    """Weights, gradients, Adam's two moments and the average in fp32, and the largest forward pass's activations."""
    state = 4 * size.parameters
    if not phase.tuning.takes_steps:
        return PROCESS_BYTES + state
    batch = recipe.compute.micro_batch_size or ceil(phase.optimizer.batch_size / max(1, recipe.compute.workers))
    activations = batch * rows.longest * size.hidden * size.layers * ACTIVATION_BYTES
    return PROCESS_BYTES + state + (16 if phase.ema_decay else 12) * size.trained + activations


def _evaluation_seconds(recipe: Recipe, prepared: dict[str, PreparedDataset], size: "Footprint", speed: Speed) -> float:
    """One forward pass per candidate and token; equal weights are measured once."""
    members: dict[Split, int] = {SELECTION: recipe.interpolation.count(), REPORT: len(recipe.phases) + 2}
    datasets = [prepared[evaluation.dataset] for evaluation in recipe.evaluations.values()]
    tokens = sum(data.splits[split].tokens * count for data in datasets for split, count in members.items())
    return tokens * 2.0 * size.computing / speed.flops


def _split_facts(data: PreparedDataset) -> str:
    return ", ".join(f"{name} {facts.rows:,}" for name, facts in data.splits.items()) + " rows"


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
    for phase in plan.phases:
        trained = f"{phase.trained:,} of {phase.parameters:,}"
        memory, took = f"{phase.memory_bytes / 1e9:.1f} GB", f"{phase.seconds:.0f} s" if phase.seconds else "done"
        table.add_row(phase.name, phase.tuning, trained, f"{phase.rows:,}", f"{phase.steps:,}", memory, took)
    console.print(table)
    console.print(f"about {plan.seconds:.0f} s in all; speed from {plan.speed}", soft_wrap=True)
