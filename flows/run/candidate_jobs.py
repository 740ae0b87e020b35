"""Make the jobs behind the last phase: points between checkpoints, what they say, and the choice."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.reward_models import weights_of
from ftlib.merging.candidates import Candidate, Candidates
from ftlib.models.adapter import adapter_digest
from ftlib.models.checkpoint import Base, Checkpoint, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.stages.batch_norm import BatchNormJob
from ftlib.stages.diverge import DivergeJob
from ftlib.stages.evaluate import EvaluateJob
from ftlib.stages.interpolate import InterpolateJob
from ftlib.stages.select import SelectJob


def interpolate_job(
    recipe: Recipe,
    trail: Sequence[Checkpoint],
    siblings: Sequence[Checkpoint],
    onto: Checkpoint | None = None,
    found: FoundModel | None = None,
) -> InterpolateJob:
    """Say which candidates to name first, before any is measured; `found` is the model that `onto` was made of."""
    start, end = trail[-2:]
    if recipe.interpolation.start:
        start = end.at(recipe.interpolation.start)
    return InterpolateJob(
        start=start,
        end=end,
        siblings=tuple(siblings),
        onto=onto,
        carried=_over(onto, found, end) if onto and found and end.form == "adapter" else None,
        interpolation=recipe.interpolation,
    )


def _over(onto: Checkpoint, found: FoundModel, end: Checkpoint) -> Checkpoint:
    """Return an adapter over another model than it was trained over."""
    base = Base(name=found.name, weights=found.weights, uri=found.uri)
    weights = adapter_digest(end.folder, base)
    named = {"phase": f"{end.phase}-on-onto", "parent": onto.weights}
    return end.model_copy(update={"base": base, "weights": weights, **named})


def batch_norm_job(
    recipe: Recipe, members: Sequence[Candidate], prepared: Mapping[str, PreparedDataset]
) -> BatchNormJob:
    """Say whose BatchNorm statistics to measure: on rows that the last phase trains on."""
    shares = recipe.phases[-1].shares(prepared)
    return BatchNormJob(
        candidates=tuple(members),
        data=tuple(prepared[name] for name in shares),
        shares=tuple(shares.values()),
        rows=recipe.interpolation.batch_norm_rows,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def evaluate_job(
    recipe: Recipe,
    name: str,
    members: Sequence[Candidate],
    prepared: Mapping[str, PreparedDataset],
    split: Split,
    referenced: Mapping[str, PreparedDataset] = MappingProxyType({}),
) -> EvaluateJob:
    """Say what to measure: every member on one split of one evaluation, whose rows may hold what a reference says."""
    evaluation = recipe.evaluations[name]
    task = recipe.datasets[evaluation.dataset].task
    return EvaluateJob(
        name=name,
        evaluation=evaluation.model_copy(update={"reference": None}),  # the rows hold what it says
        asked={metric.name: weights_of(metric.asks) for metric in evaluation.metrics if metric.asks},
        candidates=tuple(member.of_task(task) for member in members),
        data=referenced.get(name, prepared[evaluation.dataset]),
        split=split,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def diverge_job(
    recipe: Recipe, candidates: Candidates, sweep: Sequence[EvalReport], prepared: Mapping[str, PreparedDataset]
) -> DivergeJob:
    """Say whose distance from the start to measure, and on which rows: those that the rule names."""
    name = (recipe.select.divergence or "").partition("/")[0]
    evaluation = recipe.evaluations[name]
    task = recipe.datasets[evaluation.dataset].task
    return DivergeJob(
        name=name,
        evaluation=evaluation,
        candidates=candidates.model_copy(update={"members": tuple(m.of_task(task) for m in candidates.members)}),
        reports=tuple(report for report in sweep if any(cell.evaluation == name for cell in report.measured)),
        data=prepared[evaluation.dataset],
        seed=recipe.seed,
        compute=recipe.compute,
    )


def select_job(
    recipe: Recipe, candidates: Candidates, sweep: Sequence[EvalReport], kl: KLToStart | None = None
) -> SelectJob:
    """Say which of the measured candidates to choose from, and how."""
    return SelectJob(
        candidates=candidates,
        reports=tuple(sweep),
        evaluations=recipe.evaluations,
        select=recipe.select,
        seed=recipe.seed,
        kl=kl,
    )
