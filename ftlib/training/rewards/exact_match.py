"""Whether an answer is the row's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from typing_extensions import override

from ftlib.data.cleaning import clean
from ftlib.errors import DataError
from ftlib.kinds.answer_text import normalized
from ftlib.training.rewards.base import Answered, RewardBase, RewardModel


class ExactMatch(RewardBase):
    """1 for the row's own answer, else 0: Unicode NFC with white space folded, and else letter for letter."""

    kind: Literal["exact_match"] = "exact_match"
    loosely: bool = False
    """Compare without case, ASCII punctuation and English articles, as SQuAD's script does."""

    @property
    @override
    def reads_own(self) -> bool:
        return True

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return 1 or 0 for each. Raises DataError for a prompt without an answer of its own."""
        del models
        return [float(self._same(one)) for one in answered]

    def _same(self, one: Answered) -> bool:
        if one.reference is None:
            raise DataError(
                f"reward {self.called}: a row has a prompt and no answer of its own, got {one.prompt[:40]!r}; "
                "give rows with answers, or a reward that needs none"
            )
        form = normalized if self.loosely else clean
        return form(one.answer) == form(one.reference)
