"""Cross-entropy of where an answer begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.span_nll import span_nll

if TYPE_CHECKING:
    pass


class AnswerSpan(Config):
    """The mean of two cross-entropies over a row's tokens: of the answer's first and its last (Devlin et al. 2019)."""

    kind: Literal["answer_span"] = "answer_span"

    needs: ClassVar[BatchKind] = "spans"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over rows in nats, and the number of rows."""
        return LossSum(span_nll(model(**batch.inputs), batch).sum(), len(batch))
