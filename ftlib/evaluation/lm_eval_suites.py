"""Task suites of EleutherAI's lm-evaluation-harness, asked of a model in memory: a score for every example."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from jaxtyping import Float

from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import Difference
from ftlib.evaluation.significance import bootstrap_p, mcnemar_p

if TYPE_CHECKING:
    from torch import nn

_SKIPPED = frozenset({"bypass"})


@dataclass(frozen=True)
class TaskScores:
    """One metric of one task: what every example of it scored. The task's value is their mean."""

    task: str
    metric: str
    higher_is_better: bool
    examples: tuple[str, ...]
    """The harness's digest of each example, with its number: equal for two models that were asked the same."""
    values: Float[np.ndarray, " examples"]

    def estimate(self, resampling: Resampling) -> Estimate:
        """Return the mean with its bootstrap interval."""
        return resampling.interval(float(self.values.mean()), self._means(resampling))

    def minus(self, theirs: TaskScores, names: tuple[str, str], resampling: Resampling) -> Difference:
        """Return the paired difference from another model's. Raises DataError for other examples."""
        if self.examples != theirs.examples:
            raise DataError(f"{self.task}: {names[0]} and {names[1]} were not asked the same examples")
        drawn = self._means(resampling) - theirs._means(resampling)
        right = [scores.values.astype(bool) for scores in (self, theirs)]
        binary = all(np.isin(scores.values, (0.0, 1.0)).all() for scores in (self, theirs))
        return Difference(
            ours=names[0],
            theirs=names[1],
            evaluation=self.task,
            metric=self.metric,
            estimate=resampling.interval(float(self.values.mean() - theirs.values.mean()), drawn),
            confidence=resampling.confidence,
            higher_is_better=self.higher_is_better,
            p=mcnemar_p(*right) if binary else bootstrap_p(drawn),
        )

    def _means(self, resampling: Resampling) -> Float[np.ndarray, " resamples"]:
        draws = resampling.draws(len(self.values))
        return np.concatenate([self.values[draw].mean(axis=1) for draw in draws])


def check_installed() -> None:
    """Raise RecipeError if the harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        raise RecipeError(
            "task suites need the package 'lm_eval', which is not installed; pip install 'reglage[lm-eval]'"
        )


def ask(
    model: nn.Module, tokenizer: Any, tasks: Sequence[str], folder: Path | None, limit: int | None = None
) -> list[TaskScores]:
    """Run tasks on a causal language model and return every metric of every task, example by example.

    `folder` holds more tasks, as the harness's YAML files; `limit` asks the first examples of each only. Metrics that
    are no mean of examples' scores are left out. Raises RecipeError for an unknown task, or if nothing is left.
    """
    check_installed()
    _check_border(tokenizer)
    harness = cast(Any, importlib.import_module("lm_eval"))
    task_manager = _known(tasks, folder)
    # It asks git for the commit of the working folder, which says "fatal" on the terminal where that is no repository.
    cast(Any, importlib.import_module("lm_eval.evaluator")).get_git_commit_hash = _no_commit
    lm = cast(Any, importlib.import_module("lm_eval.models.huggingface")).HFLM(
        pretrained=model, tokenizer=tokenizer, batch_size=8, device=str(next(model.parameters()).device)
    )
    with contextlib.redirect_stderr(io.StringIO()):  # its bars, which have no switch; errors are raised
        results = harness.simple_evaluate(
            model=lm, tasks=list(tasks), task_manager=task_manager, log_samples=True, bootstrap_iters=0, limit=limit
        )
    scores = [scores for task, samples in results["samples"].items() for scores in _scores(task, samples, results)]
    if not scores:
        raise RecipeError(
            f"tasks {', '.join(tasks)}: none has a metric that is a mean of its examples' scores; name others"
        )
    return scores


def _no_commit() -> None:
    return None


def _check_border(tokenizer: Any) -> None:
    """Refuse a tokenizer that ends every text: the harness finds a choice behind its prompt by counting tokens."""
    whole, plain = (tokenizer("a", add_special_tokens=special)["input_ids"] for special in (True, False))
    if whole[-1:] != plain[-1:]:
        raise ModelError(
            f"the tokenizer puts {tokenizer.convert_ids_to_tokens(whole[-1])!r} behind every text, and lm-eval would "
            "score that token instead of the choices; save the model with a tokenizer that adds none"
        )


def _known(tasks: Sequence[str], folder: Path | None) -> Any:
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = cast(Any, importlib.import_module("lm_eval.tasks")).TaskManager(
        include_path=None if folder is None else str(folder), verbosity="ERROR"
    )
    if unknown := sorted({*tasks} - {*manager.all_tasks}):
        where = "" if folder is None else f" and {folder}"
        raise RecipeError(f"no task {', '.join(map(repr, unknown))} in lm-eval{where}; name one by its `task:`")
    return manager


def _scores(task: str, samples: Sequence[Mapping[str, Any]], results: Mapping[str, Any]) -> list[TaskScores]:
    """Return the metrics of one task whose mean over examples is what the harness reports."""
    ordered = sorted(samples, key=lambda sample: sample["doc_id"])
    names = dict.fromkeys(name for sample in ordered for name in sample["metrics"] if name not in _SKIPPED)
    filters = dict.fromkeys(sample["filter"] for sample in ordered)
    result: list[TaskScores] = []
    for name in names:
        for way in filters:
            mine = [sample for sample in ordered if sample["filter"] == way]
            values = [sample[name] for sample in mine]
            if not all(isinstance(value, (int, float)) for value in values):
                continue  # parts of a corpus score, such as (log-likelihood, bytes)
            scores = np.array(values, np.float64)
            if not np.isclose(scores.mean(), results["results"][task][f"{name},{way}"]):
                continue
            label = name if way == "none" else f"{name},{way}"
            better = bool(results["higher_is_better"][task].get(name, True))
            examples = tuple(f"{sample['doc_id']}:{sample['doc_hash']}" for sample in mine)
            result.append(TaskScores(task, label, better, examples, scores))
    return result
