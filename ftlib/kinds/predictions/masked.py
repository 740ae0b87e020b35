"""What was hidden in a text."""

from __future__ import annotations

import re

from typing_extensions import override

from ftlib.data.cleaning import clean
from ftlib.data.row_targets import ASKED
from ftlib.data.rows import Example
from ftlib.errors import DataError
from ftlib.kinds.predictions.base import Asked, Prediction, Predictor

_HIDDEN = re.compile(r"\[MASK\]|<mask>", re.IGNORECASE)
_MOST = 5


class HiddenPrediction(Prediction):
    """The tokens that are most probable at each hidden place of one text, in order."""

    hidden: tuple[dict[str, float], ...]
    """Of each place, five tokens with their probabilities, the most probable first."""

    @override
    def line(self) -> str:
        return "\t".join(next(iter(tokens)) for tokens in self.hidden)


class HiddenPredictor(Predictor):
    """A text says `[MASK]` or `<mask>` where a token is hidden, whatever the model's own mask is; labels are tokens."""

    @override
    def example(self, text: str, *, keep_lines: bool) -> Example:
        """Return what is asked. Raises DataError for a text in which nothing is hidden."""
        text = clean(text, keep_lines=keep_lines)
        parts = _HIDDEN.split(text)
        if len(parts) == 1:
            raise DataError(f"{text[:60]!r} hides nothing; write [MASK] for each token that is to be said")
        return Example(text, parts=tuple(parts))

    @override
    def prediction(self, asked: Asked) -> HiddenPrediction:
        (piece,), (logits,) = asked.pieces, asked.logits
        words = piece.target
        assert isinstance(words, tuple)
        hidden: list[dict[str, float]] = []
        for position in (i for i, word in enumerate(words) if word == ASKED):
            best, ids = logits[position].softmax(-1).topk(_MOST)
            hidden.append({self.labels[int(id)]: float(p) for id, p in zip(ids, best, strict=True)})
        return HiddenPrediction(hidden=tuple(hidden))
