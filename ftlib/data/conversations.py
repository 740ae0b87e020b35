"""Conversations as people keep them, to one form: a list of messages with `role` and `content`, as OpenAI has them.

Read are OpenAI's own (`role`, `content`, `tool_calls`, `tool_call_id`), ShareGPT's (`from`, `value`), and what Alpaca
keeps in columns (`ftlib.data.formats.chat`). Everything else of a message is handed to the template as it is.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, cast, get_args

from ftlib.data.cleaning import clean
from ftlib.data.rows import Dropped, Value

Role = Literal["system", "user", "assistant", "tool"]
Message: TypeAlias = "dict[str, Any]"
"""A role, a content, and what else a template may read."""

ROLES: tuple[Role, ...] = get_args(Role)
ALIASES: Mapping[str, Role] = MappingProxyType(
    {
        **{role: role for role in ROLES},
        "developer": "system",
        "human": "user",
        "gpt": "assistant",
        "chatgpt": "assistant",
        "bot": "assistant",
        "model": "assistant",
        "function": "tool",
        "observation": "tool",
    }
)
"""What roles are called elsewhere. ShareGPT's `function_call` is none: its text is no turn of the model's own form."""

_OTHER_PARTS = ("image", "image_url", "input_image", "audio", "input_audio", "video")


def conversation(
    value: Value, roles: Mapping[str, Role], part: Callable[[Sequence[Message]], list[Message] | Dropped]
) -> list[Message] | Dropped:
    """Return the `part` of a row's messages that is read: `up_to_answer` or `up_to_question`; or why there is none.

    A text is read as JSON, which is how csv holds lists.
    """
    if value is None or value == "":
        return Dropped("missing_messages")
    messages = messages_of(value, roles)
    return messages if isinstance(messages, Dropped) else part(messages)


def messages_of(value: Value, roles: Mapping[str, Role]) -> list[Message] | Dropped:
    """Return all messages of a list of turns, or what is wrong with one of them, or with their order."""
    turns = _parsed(value)
    if turns is None:
        return Dropped("messages_not_a_list")
    messages: list[Message] = []
    for turn in turns:
        message = _message(turn, roles)
        if isinstance(message, Dropped):
            return message
        messages.append(message)
    return ordered(messages)


def transcript(messages: Sequence[Message]) -> str:
    """Return what was said as one text: each turn behind its role, an empty line apart."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def turns_in(text: str) -> list[Message] | Dropped:
    """Return the turns that a text holds in JSON, or the user's one turn that it is."""
    turns: Value = [{"role": "user", "content": text}]
    if text.lstrip()[:2].strip() in ("[{", "["):
        with contextlib.suppress(ValueError, RecursionError):  # a user may begin with a bracket
            turns = cast(Value, json.loads(text))
    return messages_of(turns, {})


def holds_turns(value: Value) -> bool:
    """Say whether a value is a list of turns, or one in JSON, as a chat is asked."""
    written = isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("["))
    return written and isinstance(messages_of(value, {}), list)


def up_to_answer(messages: Sequence[Message]) -> list[Message] | Dropped:
    """Return messages up to the last of the assistant, if there is one; what follows it teaches nothing."""
    return _up_to(messages, ("assistant",)) or Dropped("no_answer")


def up_to_question(messages: Sequence[Message]) -> list[Message] | Dropped:
    """Return messages up to the last that is answered: the user's or a tool's."""
    return _up_to(messages, ("user", "tool")) or Dropped("no_question")


def _up_to(messages: Sequence[Message], roles: Sequence[Role]) -> list[Message]:
    last = max((turn for turn, message in enumerate(messages) if message["role"] in roles), default=-1)
    return [*messages[: last + 1]]


def ordered(messages: Sequence[Message]) -> list[Message] | Dropped:
    """Return the messages, or what is wrong with their order."""
    roles: list[str] = [message["role"] for message in messages]
    if roles.count("system") > 1:
        return Dropped("several_system_turns")
    if "system" in roles[1:]:
        return Dropped("system_not_first")
    if next((role for role in roles if role != "system"), "") == "assistant":
        return Dropped("assistant_first")
    return [*messages]


def _parsed(value: Value) -> list[Value] | None:
    """Return a list of turns; None for what is none."""
    if isinstance(value, str):
        try:
            value = cast(Value, json.loads(value))
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) and value else None


def _message(turn: Value, roles: Mapping[str, Role]) -> Message | Dropped:
    """Return one turn as OpenAI writes it, its text cleaned, without what is null.

    Tables fill every message up with the fields of all others; a template would read them as there.
    """
    if not isinstance(turn, dict):
        return Dropped("turn_not_an_object")
    fields = {name: held for name, one in turn.items() if (held := _without_nulls(one)) is not None}
    called = fields.pop("role", None) or fields.pop("from", None)
    role = {**ALIASES, **roles}.get(called.strip().lower() if isinstance(called, str) else "")
    if role is None:
        return Dropped("unknown_role")
    content = _text(fields.pop("content", None) or fields.pop("value", None))
    if isinstance(content, Dropped):
        return content
    calls = fields.get("tool_calls")
    if not content.strip() and not calls:
        return Dropped("empty_content")
    message: Message = {"role": role, "content": content, **fields}
    return {**message, "tool_calls": _calls(calls)} if calls else message


def _text(content: Value) -> str | Dropped:
    """Return a message's text, cleaned; that of several parts is joined."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": part} for part in content]
        if any(part.get("type") in _OTHER_PARTS or {*part} & {*_OTHER_PARTS} for part in parts):
            return Dropped("image_in_chat")
        texts = [part.get("text") for part in parts]
        content = "".join(text for text in texts if isinstance(text, str)) if all(texts) else cast(Value, texts)
    if content is None:
        return ""
    return clean(content, keep_lines=True) if isinstance(content, str) else Dropped("content_not_a_text")


def _calls(calls: Value) -> Value:
    """Return tool calls with their arguments as objects, which is what templates write as JSON; OpenAI has texts."""
    if not isinstance(calls, list):
        return calls
    return [_call(call) if isinstance(call, dict) else call for call in calls]


def _call(call: dict[str, Value]) -> dict[str, Value]:
    function = call.get("function")
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments: Value = json.loads(cast(str, function["arguments"]))
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}}


def _without_nulls(value: Value) -> Value:
    if isinstance(value, dict):
        return {name: held for name, one in value.items() if (held := _without_nulls(one)) is not None}
    return [_without_nulls(one) for one in value] if isinstance(value, list) else value


def tools_in(value: Value) -> list[Value] | Dropped | None:
    """Return the tools that a row offers, as JSON schemas; a text is read as JSON."""
    if value is None or value == "" or value == []:
        return None
    tools = _parsed(_without_nulls(value))
    if tools is None or not all(isinstance(tool, dict) for tool in tools):
        return Dropped("tools_not_a_list")
    return tools
