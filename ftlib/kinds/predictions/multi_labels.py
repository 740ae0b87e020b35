"""The labels of a text, of which none excludes another."""

from __future__ import annotations

from typing_extensions import override

from ftlib.kinds.outcomes.multi_labels import THRESHOLD
from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class MultiLabelPrediction(Prediction):
    """The labels of one text."""

    labels: tuple[str, ...]
    """Those that are at least as probable as not, the most probable first; there may be none."""
    probabilities: dict[str, float]
    """Of every label, in the model's order."""

    @override
    def line(self) -> str:
        return "\t".join(f"{label}\t{self.probabilities[label]:.4f}" for label in self.labels)


class MultiLabelPredictor(Predictor):
    """Each label is a yes or no of its own."""

    @override
    def prediction(self, asked: Asked) -> MultiLabelPrediction:
        probabilities: dict[str, float] = dict(zip(self.labels, asked.logits[0].sigmoid().tolist(), strict=True))
        named = [
            label
            for label in sorted(probabilities, key=lambda label: -probabilities[label])
            if probabilities[label] >= THRESHOLD
        ]
        return MultiLabelPrediction(labels=tuple(named), probabilities=probabilities)
