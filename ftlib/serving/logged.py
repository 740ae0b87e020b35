"""What a log keeps of an answer."""

from __future__ import annotations

from typing import Any, cast

from pydantic import JsonValue

from ftlib.answer_log.record import LiveAnswer, Traffic
from ftlib.data.conversations import turns_in
from ftlib.kinds.predictions import LabelPrediction, MultiLabelPrediction, ScorePrediction
from ftlib.published.loaded import Answered, Asks
from ftlib.serving.asked import Input
from ftlib.serving.following import Side
from ftlib.serving.plan import LogInputs
from ftlib.storage.leases import utc_now

_QUOTES_NOTHING = (LabelPrediction, MultiLabelPrediction, ScorePrediction)
"""Answers that hold no word of what was asked."""


def live_answer(
    asked: Input, side: Side, answered: Answered, traffic: Traffic, inputs: LogInputs, answer: Any, seconds: float
) -> LiveAnswer:
    """Return the record. An answer that may quote its input is kept only where inputs are; an image never is."""
    prediction = answered.prediction
    sure = getattr(prediction, "probability", None)
    return LiveAnswer(
        request=asked.request,
        at=utc_now(),
        name=side.version.name,
        version=side.version.version,
        manifest=side.version.manifest,
        traffic=traffic,
        input=_input(asked, side.loaded.asks) if inputs == "text" else None,
        measures=answered.measures,
        label=prediction.label if isinstance(prediction, LabelPrediction) else None,
        probability=None if sure is None else min(max(float(sure), 0.0), 1.0),  # a sum of floats may pass 1
        answer=answer if inputs == "text" or isinstance(prediction, _QUOTES_NOTHING) else None,
        seconds=seconds,
    )


def _input(asked: Input, asks: Asks) -> str | list[JsonValue] | None:
    """Return what was asked as the source `feedback` reads it: of a chat the turns that the model has read."""
    if asks == "image":
        return None
    turns = turns_in(asked.text) if asks == "chat" else None
    return cast("list[JsonValue]", turns) if isinstance(turns, list) else asked.text
