"""The steps of one phase: its head, what frozen models say of its rows, its training."""

from collections.abc import Mapping, Sequence

from flows.run import companion_jobs, jobs
from flows.run.values import Data, whole
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.evaluation.principle_facts import RevisedDataset, Upheld
from ftlib.models.checkpoint import Checkpoint, Form, FoundModel
from ftlib.recipe.recipe import Recipe
from ftlib.stages.answer import answer
from ftlib.stages.base import base
from ftlib.stages.fisher import fisher
from ftlib.stages.quantize import quantize
from ftlib.stages.quote import quote
from ftlib.stages.revise import revise
from ftlib.stages.score import score
from ftlib.stages.step import Steps, step
from ftlib.stages.train import runs_on_ray, train
from ftlib.stages.uphold import uphold
from ftlib.training.fisher.record import Fisher, read_carried
from ftlib.training.phase import ANSWERS, CRITIC, Phase


def one_phase(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint | None],
    form: Form,
    data: Data | None,
    *,
    seed: int | None = None,
    called: str = "",
) -> Steps[tuple[list[Checkpoint | None], Data | None, dict[str, RevisedDataset]]]:
    """Train one phase from the trail's end, which is of a form, behind the head and the rounding that it wants.

    Return the trail with what that made, what the phase learnt of, and pairs as `revised` returns them. `called` is
    another name for the phase, by which its steps and its end are called.
    """
    ends, named = [*trail], phase
    if called:
        named = phase.model_copy(update={"name": called})
        data = data and data.model_copy(
            update={"companions": {**data.companions, called: data.companions.get(phase.name, {})}}
        )
    if r.takes_new_head(phase):
        ends.append((yield from given_head(r, named, ends[-1], data)))
    if phase.tuning.quantization and form == "dense":
        job = ends[-1] and jobs.quantize_job(r, named, ends[-1])
        ends.append((yield from step(quantize, job, f"for {named.name}")))
    rows, made = yield from revised(r, named, whole(ends), data)
    ends.append((yield from trained(r, named, ends, rows, seed)))
    return ends, rows, made


def given_head(r: Recipe, phase: Phase, end: Checkpoint | None, data: Data | None) -> Steps[Checkpoint | None]:
    """Give the body that a phase ended with the head that the next one trains."""
    made = yield from step(base, jobs.head_job(r, phase, end, data.labels) if end and data else None, phase.name)
    return jobs.with_head(made, phase, end) if made and end else None


def trained(
    r: Recipe, phase: Phase, trail: Sequence[Checkpoint | None], data: Data | None, seed: int | None = None
) -> Steps[Checkpoint | None]:
    """Train one phase from the trail's end; with another seed, a fine-tune beside it."""
    ends = whole(trail)
    companions = data.companions.get(phase.name, {}) if data else {}
    prepared = yield from answered(r, phase, ends, data and data.prepared, companions.get(ANSWERS))
    prepared = yield from scored(r, phase, ends, prepared, companions)
    if getattr(phase.objective, "writes", False):
        for name in phase.parts:
            made = yield from quoted(r, name, prepared[name] if prepared else None, data and data.raw)
            prepared = {**prepared, name: made} if prepared and made else None
    which = phase.name if seed is None else f"{phase.name}-seed{seed}"
    weighed: Fisher | None = None
    kept = phase.penalty.keeps if phase.penalty else None
    if kept and kept.datasets:
        weighing = jobs.fisher_job(r, kept, ends[-1], prepared) if ends and prepared else None
        weighed = yield from step(fisher, weighing, f"for {which}", on_ray=runs_on_ray(phase, r.compute))
    elif kept and data:
        weighed = read_carried(data.model)
    ready = weighed is not None or kept is None
    phase = jobs.with_added_rows(phase, data.added_rows if data else ())
    job = jobs.train_job(r, phase, ends, prepared, companions, seed, weighed) if ends and prepared and ready else None
    return (yield from step(train, job, which, on_ray=runs_on_ray(phase, r.compute)))


def revised(
    r: Recipe, phase: Phase, trail: Sequence[Checkpoint] | None, data: Data | None
) -> Steps[tuple[Data | None, dict[str, RevisedDataset]]]:
    """Return what a phase trains on: with pairs of its model's own drafts and revisions, where it has principles.

    Beside it are those pairs, by the dataset whose prompts they answer.
    """
    pairs: dict[str, RevisedDataset] = {}
    by = data.companions.get(phase.name, {}).get(CRITIC) if data else None
    names = [*phase.parts] if phase.principles else []
    for name in names:
        job = (
            companion_jobs.revise_job(r, phase, name, trail, data.prepared[name], data.raw[name], by)
            if trail and data
            else None
        )
        if made := (yield from step(revise, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)):
            pairs[name] = made
    if data is None or len(pairs) < len(names):
        return None, pairs
    learnt = {name: made.as_prepared() for name, made in pairs.items()}
    return data.model_copy(update={"prepared": {**data.prepared, **learnt}}), pairs


def upheld(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    data: Data | None,
    pairs: Mapping[str, RevisedDataset],
) -> Steps[list[Upheld | None]]:
    """Hold what a phase's start and its end answer to held-out prompts against its principles."""
    held: list[Upheld | None] = []
    by = data.companions.get(phase.name, {}).get(CRITIC) if data else None
    for name in phase.parts if phase.principles else ():
        job = (
            companion_jobs.uphold_job(r, phase, name, trail, data.prepared[name], data.raw[name], by, pairs[name])
            if trail and data and name in pairs
            else None
        )
        held.append((yield from step(uphold, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)))
    return held


def answered(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    by: FoundModel | Checkpoint | None,
) -> Steps[Mapping[str, PreparedDataset] | None]:
    """Give a phase's datasets the answers that a frozen model writes, where it learns from those."""
    for name in phase.parts if phase.answers else ():
        job = companion_jobs.answer_job(r, phase, name, trail, prepared[name], by) if trail and prepared else None
        made = yield from step(answer, job, f"{name} for {phase.name}", on_ray=r.compute.infers_on_ray)
        prepared = {**prepared, name: made} if prepared and made else None
    return prepared


def scored(
    r: Recipe,
    phase: Phase,
    trail: Sequence[Checkpoint] | None,
    prepared: Mapping[str, PreparedDataset] | None,
    elsewhere: Mapping[str, FoundModel | Checkpoint],
) -> Steps[Mapping[str, PreparedDataset] | None]:
    """Give a phase's datasets the columns that its objective reads of frozen models; most have none."""
    for name, part, which in scorings(phase):
        job = companion_jobs.score_job(r, phase, name, trail, prepared[part], elsewhere) if trail and prepared else None
        made = yield from step(score, job, which, on_ray=r.compute.infers_on_ray)
        prepared = {**prepared, part: made} if prepared and made else None
    return prepared


def scorings(phase: Phase) -> list[tuple[str, str, str]]:
    """Return the name of each scorer, the dataset that it scores, and what that step is called."""
    return [(name, part, f"{part} by {name} for {phase.name}") for name in phase.scores for part in phase.parts]


def quoted(
    r: Recipe, name: str, data: PreparedDataset | None, raw: Mapping[str, RawDataset] | None
) -> Steps[PreparedDataset | None]:
    """Give a dataset's rows their prompts as texts, where what is written behind them is graded."""
    return (yield from step(quote, companion_jobs.quote_job(r, name, data, raw[name]) if data and raw else None, name))
