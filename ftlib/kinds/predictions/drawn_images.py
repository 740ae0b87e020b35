"""The image that a caption asks for."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class DrawnImage(Prediction):
    """An image that was drawn, and how."""

    file: str
    """The PNG that holds it."""
    caption: str
    seed: int
    """What its first noise is drawn by."""
    steps: int
    guidance: float

    @override
    def line(self) -> str:
        return f"{self.file}\tseed {self.seed}, {self.steps} steps, guidance {self.guidance:g}\t{self.caption}"


class CaptionPredictor(Predictor):
    """A pipeline draws what a caption says; there are no logits to read."""

    draws: ClassVar[bool] = True

    @override
    def prediction(self, asked: Asked) -> DrawnImage:
        raise TypeError("what is drawn is no answer of logits: see ftlib.published.drawing")
