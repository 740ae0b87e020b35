"""Share of prompts that one of k drawn answers solves."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.training.rewards import Reward
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.exact_match import ExactMatch
from ftlib.training.rewards.grading import graded

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int


class PassAtK(MeanOverRows):
    """pass@k, between 0 and 1: the chance that at least one of k drawn answers is right (Chen et al. 2021).

    arXiv 2107.03374. Of n samples of which c are right, each row has 1 - C(n - c, k) / C(n, k), which is unbiased; the
    share of rows with a right one among the first k would be too, with more noise, and 1 - (1 - c / n)^k is not.
    """

    kind: Literal["pass_at_k"] = "pass_at_k"
    k: int = Field(default=1, ge=1, le=1000)
    """How many answers there are to choose from; the evaluation's `samples.count` is at least that."""
    checker: Reward = ExactMatch()
    """What says whether an answer is right: one that asks no model."""
    at_least: float = 1.0
    """What the checker must give a right answer."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_prompts: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    @model_validator(mode="after")
    def _asks_nobody(self) -> PassAtK:
        if self.checker.companions:
            raise ValueError(
                f"checker: {self.checker.kind!r} asks a model, which knows no right and wrong; use another"
            )
        return self

    @property
    @override
    def name(self) -> str:
        return f"pass_at_{self.k}"

    @property
    @override
    def least_samples(self) -> int:
        return self.k

    @property
    @override
    def reads_own(self) -> bool:
        return self.checker.reads_own

    @override
    def misfits(self) -> Sequence[str]:
        return self.checker.misfits()

    def per_row(self, outcomes: CompletionOutcomes) -> Float[np.ndarray, " rows"]:
        """Return every row's chance. Raises RecipeError for a checker that gives no numbers."""
        import numpy as np

        prompts, sampled = outcomes.drawn()
        asked = self.model_copy(update={"k": 1}).model_dump_json()
        right = np.array(
            [
                _right(asked, tuple(Answered(prompt, answer, gold or None, ended) for answer, ended in answers))
                for prompt, answers, gold in zip(prompts, sampled, outcomes.references, strict=True)
            ]
        )
        return pass_at_k(np.array([len(answers) for answers in sampled]), right, self.k)


def pass_at_k(samples: Int[np.ndarray, " rows"], right: Int[np.ndarray, " rows"], k: int) -> Float[np.ndarray, " rows"]:
    """Return 1 - C(n - c, k) / C(n, k) of each row, as a product, in which no factorial overflows."""
    import numpy as np

    def one(n: int, c: int) -> float:
        return 1.0 if n - c < k else 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    return np.array([one(n, c) for n, c in zip(samples.tolist(), right.tolist(), strict=True)], np.float64)


@lru_cache(maxsize=65_536)
def _right(metric: str, answered: tuple[Answered, ...]) -> int:
    """Return how many answers are right, by a metric's JSON: intervals and several k ask for the same rows again."""
    asked = PassAtK.model_validate_json(metric)
    return sum(grade >= asked.at_least for grade in graded(asked.checker, answered, {}))
