"""What is planned where a model is asked and not trained: scores, answers, revisions, Fisher information, metrics."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from flows.planning.facts import ScoringPlan
from flows.planning.trainings import written_for
from ftlib.config import REPORT, SELECTION, Split
from ftlib.data.datasets import PreparedDataset
from ftlib.kinds.kind import KINDS
from ftlib.recipe.recipe import Recipe
from ftlib.stages.score import SCORED
from ftlib.training.memory.process_bytes import PROCESS
from ftlib.training.penalties.base import Kept
from ftlib.training.phase import Phase, Principles, WrittenAnswers
from ftlib.training.principles import read_principles
from ftlib.training.speed import Speed, training_flops

if TYPE_CHECKING:
    from ftlib.training.memory.footprint import Footprint, Frozen


def scoring_plan(
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
    rows, tokens = written_for(phase, rows, tokens) if phase else (rows, tokens)
    return ScoringPlan(
        name=label,
        parameters=model.parameters,
        rows=rows,
        tokens=round(tokens),
        memory_bytes=PROCESS["cpu"] + 4 * model.parameters,
        seconds=0.0 if label in done else round(tokens * 2.0 * model.computing / speed.flops, 1),
        done=label in done,
    )


def answering_plan(
    label: str, model: "Frozen", data: PreparedDataset, asked: WrittenAnswers, speed: Speed, done: Collection[str]
) -> ScoringPlan:
    """Plan what a model writes in place of rows' answers: their prompts once, then a token at a time, at most."""
    seen = scoring_plan(label, model, data, speed, done)
    written = seen.rows * asked.max_new_tokens * asked.num_beams
    more = 0.0 if label in done else written * 2.0 * model.computing / speed.flops
    return seen.model_copy(update={"tokens": seen.tokens + written, "seconds": round(seen.seconds + more, 1)})


def revising_plan(
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
        done=label in done,
    )


def fisher_plans(
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
                done=label in done,
            )
        )
    return tuple(plans)


def evaluation_seconds(recipe: Recipe, prepared: dict[str, PreparedDataset], size: "Footprint", speed: Speed) -> float:
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
