"""Cross-entropy over labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.errors import RecipeError
from ftlib.kinds.batch import Batch, LossSum
from ftlib.wording import some


class Classification(Config):
    """Cross-entropy with optional label smoothing (Szegedy et al. 2016, arXiv 1512.00567)."""

    introduced: ClassVar[Mapping[str, object]] = {"label_weights": {}, "focus": 0.0}

    kind: Literal["classification"] = "classification"
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of each target that is spread evenly over all labels; 0 is none."""
    label_weights: dict[str, Annotated[float, Field(ge=0.0)]] = {}
    """What a row of a label counts instead of 1, by label, as for rare ones; labels that are not named count 1."""
    focus: float = Field(default=0.0, ge=0.0)
    """Gamma of the focal loss (Lin et al. 2017, arXiv 1708.02002): a row counts (1 - p) ** focus, p being what the
    model gives its label; 0 is plain cross-entropy, 2 what its authors take."""

    needs: ClassVar[BatchKind] = "labeled"

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise RecipeError for a weight of what is no label."""
        if stray := [name for name in self.label_weights if name not in labels]:
            raise RecipeError(
                f"objective.label_weights: no row has the label {some([*map(repr, stray)])}; the rows have "
                f"{some(labels)}: remove it or correct its name"
            )

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed cross-entropy in nats, each row times its weight, and the number of rows."""
        import torch
        from torch.nn.functional import cross_entropy

        assert batch.targets is not None
        logits = model(**batch.inputs).logits.float()
        if not self.label_weights and not self.focus:
            total = cross_entropy(logits, batch.targets, reduction="sum", label_smoothing=self.label_smoothing)
            return LossSum(total, len(batch.targets))
        each = cross_entropy(logits, batch.targets, reduction="none", label_smoothing=self.label_smoothing)
        right = logits.log_softmax(-1).gather(1, batch.targets[:, None])[:, 0]
        # A row that is sure in fp32 has no wrong share, and a root's slope there is infinite: 0 times it is NaN.
        wrong = (-torch.expm1(right)).clamp(min=torch.finfo(right.dtype).tiny)
        weights = logits.new_ones(logits.shape[1])
        for label, position in _positions(model).items():
            weights[position] = self.label_weights.get(label, 1.0)
        return LossSum((weights[batch.targets] * wrong**self.focus * each).sum(), len(batch.targets))


def _positions(model: Any) -> Mapping[str, int]:
    return getattr(model, "module", model).config.label2id
