"""The next turn of a chat."""

from __future__ import annotations

from typing import ClassVar

from typing_extensions import override

from ftlib.data.conversations import Message, turns_in
from ftlib.data.formats.chat import chat_example
from ftlib.data.row_reasons import REMEDIES
from ftlib.data.rows import Dropped, Example
from ftlib.errors import DataError
from ftlib.kinds.predictions.base import Asked, Predictor
from ftlib.kinds.predictions.text import WrittenText


class ChatPredictor(Predictor):
    """A chat that the model goes on with: a line is what the user says, or, in JSON, all turns so far."""

    writes: ClassVar[bool] = True

    @override
    def example(self, text: str, *, keep_lines: bool) -> Example:
        messages = turns_in(text)
        if isinstance(messages, Dropped):
            raise DataError(f"{text[:60]!r} is no chat: {messages.reason}; {REMEDIES.get(messages.reason, '')}")
        if (last := _last(messages)) == "assistant":
            raise DataError(f"{text[:60]!r} ends with a turn of the {last}; give the turns before the next answer")
        return chat_example(messages, None)

    @override
    def prediction(self, asked: Asked) -> WrittenText:
        """Return what the assistant says next."""
        return WrittenText(text=asked.written)


def _last(messages: list[Message]) -> str:
    return messages[-1]["role"]
