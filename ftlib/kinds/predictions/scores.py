"""The number of a text."""

from __future__ import annotations

from typing_extensions import override

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class ScorePrediction(Prediction):
    """The number of one text, in the unit of the training data."""

    score: float

    @override
    def line(self) -> str:
        return f"{self.score:.6g}"


class ScorePredictor(Predictor):
    """A head of one output says the number itself."""

    @override
    def prediction(self, asked: Asked) -> ScorePrediction:
        return ScorePrediction(score=float(asked.logits[0][0]))
