"""Where a text answers a question."""

from __future__ import annotations

from math import exp, isfinite

from pydantic import ValidationError
from typing_extensions import override

from ftlib.config import Config
from ftlib.data.cleaning import clean
from ftlib.data.rows import Example
from ftlib.errors import DataError
from ftlib.kinds.predictions.base import Asked, Prediction, Predictor


class FoundAnswer(Prediction):
    """Where a text answers a question."""

    answer: str | None
    """None where the text has no answer."""
    probability: float
    """Of its first and its last token together, in the window it was found in; of no answer, in the window that says so
    the least."""
    null_score_diff: float | None
    """By how much no answer scores above the best text. None without any text, and for a model that was not taught that
    there may be no answer."""

    @override
    def line(self) -> str:
        text = "(no answer)" if self.answer is None else " ".join(self.answer.split())
        return f"{text}\t{self.probability:.4f}"


class _Question(Config):
    question: str
    context: str


class SpanPredictor(Predictor):
    """The best text of all windows, or that there is none."""

    @override
    def example(self, text: str, *, keep_lines: bool) -> Example:
        """Return a question and its context from JSON; the context is not cleaned, as in training."""
        try:
            asked = _Question.model_validate_json(text)
        except ValidationError as error:
            raise DataError(
                'a question is a JSON object on a line, {"question": "...", "context": "..."}; '
                f"got {text[:60]!r}: {error.errors()[0]['msg']}"
            ) from error
        return Example(text, parts=(clean(asked.question), asked.context))

    @override
    def prediction(self, asked: Asked) -> FoundAnswer:
        """Return the best text of all the context's windows, or none where no answer scores above it."""
        from ftlib.kinds.heads.spans import best_span, null_scores

        windows: list[tuple[float, float, str]] = []
        nothing: list[tuple[float, float]] = []
        for piece, (start, end) in zip(asked.pieces, (one.unbind(dim=-1) for one in asked.logits), strict=True):
            assert isinstance(piece.target, dict)
            assert "spelt" in piece.target
            of_all = float(start.logsumexp(0) + end.logsumexp(0))
            score, text = best_span(start, end, piece.target["spelt"])
            windows.append((score, of_all, text))
            if piece.target["optional"]:
                nothing.append((float(null_scores(start, end)), of_all))
        score, of_all, text = max(windows, key=lambda window: window[0])
        if not nothing:
            return FoundAnswer(answer=text, probability=exp(score - of_all), null_score_diff=None)
        null, of_null = min(nothing)
        silent = null - score > self.answer_threshold or not text
        return FoundAnswer(
            answer=None if silent else text,
            probability=exp(null - of_null) if silent else exp(score - of_all),
            null_score_diff=null - score if isfinite(score) else None,
        )
