"""A text's vector."""

from __future__ import annotations

from typing_extensions import override

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class VectorPrediction(Prediction):
    """Where a text lies; texts are near where the product of their vectors is large."""

    vector: tuple[float, ...]
    """Of length 1."""

    @override
    def line(self) -> str:
        return "\t".join(f"{number:.6g}" for number in self.vector)


class VectorPredictor(Predictor):
    """The mean of a text's tokens, special ones included, of length 1."""

    @override
    def prediction(self, asked: Asked) -> VectorPrediction:
        mean = asked.logits[0].mean(0)
        return VectorPrediction(vector=tuple((mean / mean.norm()).tolist()))
