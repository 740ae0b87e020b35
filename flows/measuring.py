"""A finished model on a recipe's evaluations, with rows tokenised as it wants them, whoever runs the stages."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from flows import jobs
from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.identity import identities
from ftlib.evaluation.measured import EvalReport
from ftlib.kinds.kind import KINDS
from ftlib.merging.candidates import Candidate
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import find_model, labels_of
from ftlib.models.reference import ModelRef
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import BaseJob
from ftlib.stages.evaluate import EvaluateJob
from ftlib.stages.preprocess import PreprocessJob


@dataclass(frozen=True)
class Stages:
    """How a stage is run: as a task of a flow, or called."""

    base: Callable[[BaseJob], Checkpoint]
    preprocess: Callable[[PreprocessJob], PreparedDataset]
    evaluate: Callable[[EvaluateJob], EvalReport]


def measure(
    name: str,
    folder: Path,
    recipe: Recipe,
    raw: Callable[[], Mapping[str, RawDataset]],
    split: Split,
    stages: Stages,
    asked: Collection[str] = (),
) -> list[EvalReport] | None:
    """Measure the model in `folder` under a name; `raw` is asked for once it is known to fit.

    None for a model without a head for these rows, or whose head does not know one of the labels `asked`, or knows one
    of them twice.
    """
    model = find_model(ModelRef(path=str(folder.absolute())))
    kind = recipe.phases[0].objective.needs
    labels = labels_of(folder) if KINDS[kind].labeled else ()
    known = identities(labels)
    if KINDS[kind].labeled and (not labels or identities(asked).keys() - known.keys()):
        return None
    if asked and len(known) < len(labels):  # as one was made that held `True` and `true` for two labels
        return None
    start = stages.base(BaseJob(model=model, kind=kind, labels=labels, seed=recipe.seed))
    if start.fresh_head:
        return None
    candidate, rows = Candidate.of(start.model_copy(update={"phase": name})), raw()
    prepared = {
        of: stages.preprocess(jobs.preprocess_job(recipe, of, rows, model)) for of in recipe.evaluation_datasets()
    }
    return [stages.evaluate(job) for job in jobs.evaluate_jobs(recipe, [candidate], prepared, split)]
