"""Make the jobs in which frozen models say something about rows: answers, revisions, scores, what a reference says."""

from collections.abc import Mapping, Sequence

from flows.run.models_beside import as_rounded, beside_phase
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.errors import RecipeError
from ftlib.evaluation.principle_facts import RevisedDataset
from ftlib.models.adapter import ANYWHERE, find_any
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.published.lineage import called
from ftlib.recipe.recipe import Recipe
from ftlib.stages.answer import AnswerJob
from ftlib.stages.quote import QuoteJob
from ftlib.stages.revise import ReviseJob
from ftlib.stages.score import MEASURED, ScoreJob
from ftlib.stages.uphold import UpholdJob
from ftlib.training.phase import Phase
from ftlib.training.precision import resolve_precision
from ftlib.training.principles import read_principles


def answer_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    by: FoundModel | Checkpoint | None,
) -> AnswerJob:
    """Say who writes what a phase learns of one of its datasets: a model from elsewhere, or an earlier phase's end."""
    assert phase.answers is not None
    return AnswerJob(
        name=name,
        model=by or next(end for end in trail if end.phase == phase.answers.phase),
        data=data,
        tokenizer=trail[-1].tokenizer,
        max_new_tokens=phase.answers.max_new_tokens,
        num_beams=phase.answers.num_beams,
        compute=recipe.compute,
    )


def revise_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    raw: RawDataset,
    by: FoundModel | Checkpoint | None,
) -> ReviseJob:
    """Say by which principles pairs are made of one of a phase's datasets; `by` is a critic from elsewhere."""
    assert phase.principles is not None
    return ReviseJob(
        name=name,
        model=trail[-1],
        critic=_critic(phase, trail, by),
        data=data,
        raw=raw,
        format=recipe.datasets[name].format,
        principles=read_principles(phase.principles.file),
        critique=phase.principles.critique,
        revision=phase.principles.revision,
        max_new_tokens=phase.principles.max_new_tokens,
        temperature=phase.principles.temperature,
        keep_cut=phase.principles.keep_cut,
        checkers=phase.principles.checkers,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def uphold_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    raw: RawDataset,
    by: FoundModel | Checkpoint | None,
    revised: RevisedDataset,
) -> UpholdJob:
    """Say whose answers to hold against a phase's principles: its start's and its end's, the last two of `trail`."""
    assert phase.principles is not None
    critic = _critic(phase, trail[:-1], by)
    return UpholdJob(
        phase=phase.name,
        before=trail[-2],
        after=trail[-1],
        critic=critic or trail[-2],
        called=called(critic) if critic else "the model itself, as it was before",
        data=data,
        raw=raw,
        format=recipe.datasets[name].format,
        drafted=revised.principles,
        critique=phase.principles.critique,
        max_new_tokens=phase.principles.max_new_tokens,
        temperature=phase.principles.temperature,
        checkers=phase.principles.checkers,
        seed=recipe.seed,
        compute=recipe.compute,
    )


def _critic(
    phase: Phase, trail: Sequence[Checkpoint], by: FoundModel | Checkpoint | None
) -> FoundModel | Checkpoint | None:
    """Return who holds drafts against principles; None for the model that drafts."""
    critic = phase.principles and phase.principles.critic
    if not critic:
        return None
    return by or next(end for end in trail if end.phase == critic.phase)


def score_job(
    recipe: Recipe,
    phase: Phase,
    name: str,
    trail: Sequence[Checkpoint],
    data: PreparedDataset,
    models: Mapping[str, FoundModel | Checkpoint],
) -> ScoreJob:
    """Say which of a phase's `scores` to compute for one of its datasets."""
    return ScoreJob(
        name=name,
        model=beside_phase(phase, trail, models)[name],
        data=data,
        tokenizer=trail[-1].tokenizer,
        labels=trail[-1].labels,
        precision=resolve_precision(phase, recipe.compute),
        compute=recipe.compute,
    )


def quote_job(recipe: Recipe, name: str, data: PreparedDataset, raw: RawDataset) -> QuoteJob:
    """Say whose prompts a reward or a judge reads: `data` is what a dataset's rows were made."""
    return QuoteJob(name=name, data=data, raw=raw, format=recipe.datasets[name].format)


def reference_job(
    recipe: Recipe, name: str, trail: Sequence[Checkpoint], prepared: Mapping[str, PreparedDataset]
) -> ScoreJob:
    """Say who an evaluation's rewards are measured against, and on which rows; `trail` is empty outside a run.

    Raises RecipeError for the end of a phase that is not there, ModelError for a model that is not.
    """
    evaluation = recipe.evaluations[name]
    companion, data = evaluation.reference, prepared[evaluation.dataset]
    assert companion is not None
    model: Checkpoint | FoundModel | None = next((end for end in trail if end.phase == companion.phase), None)
    if model is None:
        given = recipe.model if companion.phase == "base" else companion.model
        if given is None:
            raise RecipeError(
                f"evaluations.{name}.reference: {companion.phase!r} is the end of a phase, which only a run makes; "
                "give `model`, a folder that was published of it"
            )
        model = find_any(given, ANYWHERE)
    return ScoreJob(
        name="reference",
        model=as_rounded(model, recipe.phases[-1], trail) if trail else model,
        data=data,
        tokenizer=data.tokenizer,
        labels=(),
        precision="fp32",  # as evaluations ask
        splits=MEASURED,
        compute=recipe.compute,
    )
