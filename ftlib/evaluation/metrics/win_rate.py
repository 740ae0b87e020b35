"""How often a judge prefers what the model writes to the row's own answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from typing_extensions import override

from ftlib.config import BatchKind, Name
from ftlib.evaluation.judges import Judge
from ftlib.evaluation.judges.base import Pair
from ftlib.evaluation.judges.swapping import row_scores
from ftlib.evaluation.metrics.base import MeanOverRows
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.models.reference import ModelRef
from ftlib.progress import note

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


class WinRate(MeanOverRows):
    """Share of rows where a judge prefers the model's answer to the row's own; a tie is half a win, 0.5 is as good.

    Every pair is asked in both orders. The row's own may be another model's answers: then it is that model's rival.
    """

    kind: Literal["win_rate"] = "win_rate"
    judge: Judge
    """Who compares."""
    called: Name | None = None
    """What results, rules and gates call it behind `win_rate:`, where there are several."""

    reads: ClassVar[frozenset[BatchKind]] = frozenset({"completions"})
    reads_writing: ClassVar[bool] = True
    reads_prompts: ClassVar[bool] = True
    higher_is_better: ClassVar[bool] = True

    @property
    @override
    def name(self) -> str:
        return "win_rate" if self.called is None else f"win_rate:{self.called}"

    @property
    @override
    def asks(self) -> Mapping[str, ModelRef]:
        return self.judge.asks

    @override
    def misfits(self) -> Sequence[str]:
        return self.judge.misfits()

    def per_row(self, outcomes: CompletionOutcomes) -> Float[np.ndarray, " rows"]:
        """Return 1 for a row that is won, 0 for one that is lost. Raises ModelError, RecipeError as the judge does."""
        import numpy as np

        prompts, answers, _ = outcomes.said()
        rows = zip(prompts, answers, outcomes.references, strict=True)
        pairs = tuple(Pair(prompt, answer, own, own or None) for prompt, answer, own in rows)
        return np.array(_scores(self.model_dump_json(), pairs))


@lru_cache(maxsize=16)
def _scores(metric: str, pairs: tuple[Pair, ...]) -> tuple[float, ...]:
    """Return the scores by a metric's JSON: intervals and slices ask for the same rows again and again."""
    scores, _, cost = row_scores(WinRate.model_validate_json(metric).judge, pairs)
    if cost.calls:
        note("judge", f"{len(pairs)} pairs in both orders: {cost.line()}")
    return tuple(scores)
