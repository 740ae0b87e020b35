"""What a model writes to a text."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class WrittenText(Prediction):
    """What the model writes to one text."""

    text: str

    @override
    def line(self) -> str:
        return self.text.replace("\\", "\\\\").replace("\n", "\\n")  # an answer is one line


class TextPredictor(Predictor):
    """A text is what its format makes a prompt or a source of, with what stood before and behind them in training."""

    writes: ClassVar[bool] = True

    @override
    def prediction(self, asked: Asked) -> WrittenText:
        return WrittenText(text=asked.written)
