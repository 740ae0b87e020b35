"""Which of two texts is better: Bradley and Terry's model of comparisons."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum, sum_and_count


class BradleyTerry(Config):
    """-log sigma(s_w - s_l - margin) + c (s_w + s_l)^2, of the scores of the better and of the worse text.

    Bradley & Terry 1952; the margin as in Llama 2 (Touvron et al. 2023, arXiv 2307.09288), the centring as in
    Eisenstein et al. 2023, arXiv 2312.09244.
    """

    kind: Literal["reward"] = "reward"
    margin_scale: float = Field(default=0.0, ge=0.0)
    """What a row's margin is multiplied with: so much better is the one text to score. 0: margins are not learnt."""
    centring: float = Field(default=0.0, ge=0.0)
    """c: draws scores towards 0, since only their differences are learnt; 0.01 is the paper's."""

    needs: ClassVar[BatchKind] = "compared"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed loss in nats, and the number of pairs."""
        from torch.nn.functional import logsigmoid

        from ftlib.kinds.heads.compared import pair_scores

        assert batch.targets is not None
        chosen, rejected = pair_scores(model(**batch.inputs).logits.float())
        each = -logsigmoid(chosen - rejected - self.margin_scale * batch.targets)
        if self.centring:
            each = each + self.centring * (chosen + rejected).square()
        measured = {"pair_margin": sum_and_count(chosen - rejected), "pair_accuracy": sum_and_count(chosen > rejected)}
        return LossSum(each.sum(), len(batch), measured)
