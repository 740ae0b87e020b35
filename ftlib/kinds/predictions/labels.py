"""The most probable label of a text."""

from __future__ import annotations

from typing_extensions import override

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class LabelPrediction(Prediction):
    """The most probable label of one text."""

    label: str
    probability: float
    probabilities: dict[str, float]
    """Of every label, in the model's order."""

    @override
    def line(self) -> str:
        return f"{self.label}\t{self.probability:.4f}"


class LabelPredictor(Predictor):
    """Labels exclude one another: their probabilities sum to 1."""

    @override
    def prediction(self, asked: Asked) -> LabelPrediction:
        values: list[float] = asked.logits[0].softmax(dim=-1).tolist()
        best = max(range(len(values)), key=values.__getitem__)
        return LabelPrediction(
            label=self.labels[best],
            probability=values[best],
            probabilities=dict(zip(self.labels, values, strict=True)),
        )
