"""Measure a finished model on a recipe's evaluations, with rows tokenised as it wants them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flows.run import jobs
from flows.run.candidate_steps import enriched, measured
from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.identity import identities
from ftlib.evaluation.measured import EvalReport
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.models.adapter import ANYWHERE, Bases, find_any
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import labels_of
from ftlib.models.reference import ModelRef
from ftlib.recipe.preflight import check_modality
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import BaseJob, base
from ftlib.stages.preprocess import preprocess
from ftlib.stages.step import Steps, step


@dataclass(frozen=True)
class Finished:
    """A model that is measured as it is."""

    model: FoundModel
    candidate: Candidate


def fitting(
    name: str, folder: Path, recipe: Recipe, asked: Collection[str] = (), bases: Bases = ANYWHERE
) -> Steps[Finished | None]:
    """Take the model in `folder` under a name; `bases` is where the base of an adapter is looked for.

    None for a model without a head for the recipe's rows, or whose head does not know one of the labels `asked`, or
    knows one of them twice.
    """
    model = find_any(ModelRef(path=str(folder.absolute())), bases)
    check_modality(recipe, folder, name)
    kind = recipe.answering_kind
    labels = labels_of(folder) if KINDS[kind].labeled else ()
    label_identities = identities(labels)
    if KINDS[kind].labeled and (not labels or identities(asked).keys() - label_identities.keys()):
        return None
    if asked and len(label_identities) < len(labels):  # as one was made that held `True` and `true` for two labels
        return None
    start = yield from step(base, BaseJob(model=model, kind=kind, labels=labels, seed=recipe.seed))
    if start is None or start.fresh_head:
        return None
    return Finished(model, Candidate.of(start.model_copy(update={"phase": name})))


def measure(
    finished: Finished, recipe: Recipe, raw: Mapping[str, RawDataset], split: Split, trail: Sequence[Checkpoint] = ()
) -> Steps[list[EvalReport] | None]:
    """Prepare the evaluations' rows for it, and measure it on one split of each.

    `trail` has the ends of a run's phases, against which rewards may be measured.
    """
    prepared: dict[str, PreparedDataset] = {}
    for of in recipe.evaluation_datasets():
        job = jobs.preprocess_job(recipe, of, raw, finished.model)
        if dataset := (yield from step(preprocess, job, of, on_ray=recipe.compute.prepares_on_ray)):
            prepared[of] = dataset
    beside = yield from enriched(recipe, trail, prepared, raw)
    return (yield from measured(recipe, [finished.candidate], prepared, split, 1, beside))
