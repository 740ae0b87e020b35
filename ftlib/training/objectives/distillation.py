"""What a teacher says of all labels, beside what the rows say of one."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config, Fraction
from ftlib.kinds.batch import Batch, LossSum


class Distillation(Config):
    """(1 - soft) cross-entropy + soft T^2 KL(teacher at T || student at T): Hinton et al. 2015, arXiv 1503.02531.

    T softens both answers; T^2 keeps the gradient's size where T changes. The teacher is a score: it is asked once for
    each row, before training, in eval mode, and is not in memory while the student learns.
    """

    kind: Literal["distillation"] = "distillation"
    temperature: float = Field(default=2.0, gt=0.0)
    """What logits are divided by before the softmax; 1 leaves the answers as they are."""
    soft: Fraction = 0.5
    """Weight of the teacher's answers; the rows' own labels have the rest. 1 learns from the teacher alone."""

    needs: ClassVar[BatchKind] = "labeled"
    scores: ClassVar[tuple[str, ...]] = ("teacher",)

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the sum over rows in nats, and the number of rows."""
        from torch.nn.functional import cross_entropy, kl_div

        assert batch.targets is not None
        logits = model(**batch.inputs).logits.float()
        teacher, student = (of / self.temperature for of in (batch.columns["teacher"], logits))
        divergence = kl_div(student.log_softmax(-1), teacher.log_softmax(-1), reduction="sum", log_target=True)
        hard = cross_entropy(logits, batch.targets, reduction="sum")
        return LossSum((1 - self.soft) * hard + self.soft * self.temperature**2 * divergence, len(batch))
