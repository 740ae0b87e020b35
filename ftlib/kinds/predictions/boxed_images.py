"""What lies where in an image file."""

from __future__ import annotations

from typing_extensions import override

from ftlib.config import Config
from ftlib.kinds.predictions.base import Asked, Prediction
from ftlib.kinds.predictions.image_labels import ImageLabelPredictor

SURE = 0.5
"""From this score on a box is told."""


class BoxFound(Config):
    """One box, in pixels of the image."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    """Left, top, width and height."""


class BoxPrediction(Prediction):
    """What a model finds in one image, the surest first."""

    file: str
    boxes: tuple[BoxFound, ...]

    @override
    def line(self) -> str:
        told = (f"{one.label} {one.score:.4f} [{', '.join(f'{side:.1f}' for side in one.box)}]" for one in self.boxes)
        return "\t".join([self.file, *told]) if self.boxes else f"{self.file}\t(nothing)"


class BoxPredictor(ImageLabelPredictor):
    """What is asked is a file's path; boxes are told from a score of one half on."""

    @override
    def prediction(self, asked: Asked) -> BoxPrediction:  # pyright: ignore[reportIncompatibleMethodOverride]
        from ftlib.kinds.heads.boxes import found

        (piece,) = asked.pieces
        assert isinstance(piece.target, dict)
        assert "width" in piece.target
        sides = (piece.target["width"], piece.target["height"]) * 2
        width = len(self.labels) + 1
        queries = asked.logits[0].reshape(-1, width + 4)
        boxes = found(queries[:, :width], queries[:, width:], self.labels)
        return BoxPrediction(
            file=asked.example.text,
            boxes=tuple(
                BoxFound(
                    label=one.label,
                    score=one.score,
                    box=(one.left * sides[0], one.top * sides[1], one.width * sides[2], one.height * sides[3]),
                )
                for one in boxes
                if one.score >= SURE
            ),
        )
