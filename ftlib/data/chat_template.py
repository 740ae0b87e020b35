"""Conversations to tokens by a chat template, and which of them the assistant wrote.

A template is data: transformers renders it in jinja's sandbox, and no code of a model runs. Where it marks what the
assistant writes (`{% generation %}`), the marks say what is learnt. Where it does not, the chat is rendered turn by
turn: what stands before an answer, and what stands up to its end, must be a prefix of the whole, token by token. A
template that writes earlier turns otherwise once others follow (dropped reasoning, a date) has no such prefix, and the
turn is named.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, takewhile
from typing import Any, cast

from ftlib.data.conversations import Message
from ftlib.data.processor import Tokenizer
from ftlib.data.rows import Dropped
from ftlib.errors import ModelError, first_line

_MARKED = re.compile(r"\{%[-+]?\s*generation\s*[-+]?%\}")
PROBE: tuple[Message, ...] = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
"""The shortest chat that teaches something."""


@dataclass(frozen=True)
class Rendered:
    """A conversation as the model reads it."""

    ids: list[int]
    runs: list[tuple[int, int]]
    """Of every turn of the assistant: its first token, and the one behind its last."""


class ChatTemplate:
    """A tokenizer's own template, one of several that it has by name, or one that is given."""

    def __init__(self, tokenizer: Tokenizer, given: str | None = None) -> None:
        """Raises ModelError where there is none, none of that name, or several and none is named."""
        self._tokenizer: Any = tokenizer
        self.text = _template(self._tokenizer.chat_template, given)
        self._marked = bool(_MARKED.search(self.text))
        added: dict[int, Any] = self._tokenizer.added_tokens_decoder
        special = {id: str(token) for id, token in added.items() if token.special}
        special |= dict(zip(self._tokenizer.all_special_ids, self._tokenizer.all_special_tokens, strict=True))
        self._special = special
        self._markers = {*added, *special}
        self._left_out: dict[object, frozenset[int]] = {}

    def is_spelt(self, texts: Sequence[str]) -> bool:
        """Say whether texts spell special tokens."""
        return any(token in text for text in texts for token in self._special.values())

    @property
    def end(self) -> int | None:
        """Return the token that ends an answer; None for a template that ends it with none of its own."""
        probe = self.render(PROBE)
        if isinstance(probe, Dropped):
            return None
        last = probe.ids[probe.runs[-1][1] - 1]
        return last if last in self._special else None

    @property
    def learns_header(self) -> bool:
        """Say whether words before an answer's own are learnt that its prompt should write: the role's name."""
        prompt, asked = self.prompt(PROBE[:1]), self.tokens(PROBE[:1])
        if isinstance(prompt, Dropped) or isinstance(asked, Dropped):
            return False
        if self._holds_words(prompt[_alike(prompt, asked) :]):
            return False  # what follows it the model is to write by itself: a channel's name, a thought
        begun: list[list[int]] = []
        for answer in ("a", "b"):
            rendered = self.render([PROBE[0], {**PROBE[1], "content": answer}])
            if isinstance(rendered, Dropped):
                return False
            begun.append(rendered.ids[slice(*rendered.runs[-1])])
        return self._holds_words(begun[0][: _alike(*begun)])

    def _holds_words(self, ids: Sequence[int]) -> bool:
        return bool(_letters(str(self._tokenizer.decode([id for id in ids if id not in self._markers]))))

    def prompt(self, messages: Sequence[Message], tools: Any = None, *, spelt: bool = False) -> list[int] | Dropped:
        """Return the tokens after which the assistant writes its next turn, or what the template has no place for."""
        encoded = self._ids(messages, tools, spelt, add_generation_prompt=True)
        if isinstance(encoded, Dropped):
            return encoded
        return self._not_rendered(messages, tools) or encoded["input_ids"]

    def tokens(self, messages: Sequence[Message]) -> list[int] | Dropped:
        """Return the tokens of a chat, whoever wrote them."""
        encoded = self._ids(messages, None, spelt=False)
        return encoded if isinstance(encoded, Dropped) else encoded["input_ids"]

    def render(
        self, messages: Sequence[Message], tools: Any = None, *, spelt: bool = False, last_only: bool = False
    ) -> Rendered | Dropped:
        """Return a conversation's tokens with the assistant's turns, or why the template has no place for it.

        `spelt` says that texts spell special tokens, which are to be read as characters; `last_only`, that nobody asks
        where earlier answers stand, which templates that drop their reasoning write otherwise.
        """
        marked = self._marked and not spelt  # transformers cannot do both; texts that spell tokens are rare
        encoded = self._ids(messages, tools, spelt, return_assistant_tokens_mask=marked)
        if isinstance(encoded, Dropped):
            return encoded
        ids: list[int] = encoded["input_ids"]
        if (lost := self._not_rendered(messages, tools)) is not None:
            return lost
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if marked:
            runs = _runs(encoded["assistant_masks"])
            if not _groups(answers) <= len(runs) <= len(answers):  # between neighbours a header is marked, or not
                return Dropped("turns_not_told_apart", f"it marks {len(runs)} runs of tokens for {len(answers)} turns")
            return Rendered(ids, runs)
        runs: list[tuple[int, int]] = []
        for turn in answers[-1:] if last_only else answers:
            run = self._run(ids, messages, turn, tools, spelt)
            if isinstance(run, Dropped):
                return run
            runs.append(run)
        return Rendered(ids, runs)

    def _run(
        self, ids: list[int], messages: Sequence[Message], turn: int, tools: Any, spelt: bool
    ) -> tuple[int, int] | Dropped:
        """Return where an answer begins and ends by the rule of prefixes."""
        before = self._ids(messages[:turn], tools, spelt, add_generation_prompt=True)
        until = self._ids(messages[: turn + 1], tools, spelt)
        if isinstance(before, Dropped):
            return before
        if isinstance(until, Dropped):
            return until
        first, end = len(before["input_ids"]), len(until["input_ids"])
        if ids[:first] != before["input_ids"] or ids[:end] != until["input_ids"] or first >= end:
            return Dropped(
                "turns_not_told_apart",
                f"turn {turn + 1} (assistant) and what stands before it is written otherwise in the whole chat",
            )
        return first, self._end_of(ids, first, end)

    def _end_of(self, ids: list[int], first: int, end: int) -> int:
        """Return the place behind an answer's end token: the white space that a template puts there is no answer."""
        last = next((i for i in range(end - 1, first - 1, -1) if ids[i] in self._special), None)
        if last is None or str(self._tokenizer.decode(ids[last + 1 : end])).strip():
            return end
        return last + 1

    def _ids(self, messages: Sequence[Message], tools: Any, spelt: bool, **how: Any) -> Any:
        """Return what transformers makes of messages, or what the template says against them."""
        from jinja2.exceptions import TemplateError

        if spelt:
            how["sanitize_control_tokens"] = True
        try:
            return self._tokenizer.apply_chat_template(
                [*messages], tools=tools, chat_template=self.text, tokenize=True, return_dict=True, **how
            )
        except (TemplateError, ValueError, TypeError, KeyError, RecursionError) as error:
            return Dropped("template_refuses", first_line(error))

    def _not_rendered(self, messages: Sequence[Message], tools: Any) -> Dropped | None:
        """Return the first turn, or tool, of which the template writes nothing: it has no place for it."""
        letters, left_out = _letters(self._text(messages, tools)), self._turns_left_out(messages, tools)
        for turn, message in enumerate(messages):
            # Answers may be cut on purpose (reasoning), and are compared token by token.
            if message["role"] != "assistant" and (turn in left_out or _letters(message["content"]) not in letters):
                return Dropped(
                    "turn_not_rendered",
                    f"turn {turn + 1} ({message['role']}) is not in what the template writes",
                )
        called = [call for message in messages for call in message.get("tool_calls") or ()]
        for one in (*(tools or ()), *called):
            name = _function_name(one)
            if name is None or _letters(name) not in letters:
                return Dropped("turn_not_rendered", f"the tool {name!r} is not in what the template writes")
        return None

    def _turns_left_out(self, messages: Sequence[Message], tools: Any) -> frozenset[int]:
        """Return which turns a template does not write, whatever they say: a short text may stand elsewhere, too."""
        from jinja2.exceptions import TemplateError

        shape = (bool(tools), *((one["role"], bool(one["content"]), *sorted(one)) for one in messages))
        if shape not in self._left_out:
            words = {turn: f"zq{turn}qz" for turn, one in enumerate(messages) if one["content"]}
            probe = [{**one, "content": words.get(turn, "")} for turn, one in enumerate(messages)]
            try:
                letters = _letters(self._text(probe, tools)).casefold()
            except (TemplateError, ValueError, TypeError, KeyError):  # it reads what turns say
                words, letters = {}, ""
            self._left_out[shape] = frozenset(turn for turn, word in words.items() if word not in letters)
        return self._left_out[shape]

    def _text(self, messages: Sequence[Message], tools: Any) -> str:
        return self._tokenizer.apply_chat_template([*messages], tools=tools, chat_template=self.text, tokenize=False)


def _template(own: object, given: str | None) -> str:
    """Return a template's text. Raises ModelError where there is none, none of that name, or several and none named."""
    named = cast("dict[str, str]", own) if isinstance(own, dict) else {}
    names = ", ".join(sorted(named)) or "none"
    if given is not None:
        if given not in named and "{" not in given:
            raise ModelError(
                f"format.template: the model's tokenizer has no template {given!r}, its named ones are {names}; give "
                "one of them, or a template's text"
            )
        return named.get(given, given)
    if isinstance(own, str):
        return own
    if "default" in named:
        return named["default"]
    has = f"several chat templates ({names}) and no default" if named else "no chat template"
    raise ModelError(f"the model's tokenizer has {has}; name or give one in format.template, or take a chat model")


def _function_name(tool: Any) -> str | None:
    """Return what a tool, offered or called, is called; None where it does not say so."""
    function = tool.get("function", tool) if isinstance(tool, dict) else None
    name = cast("dict[str, Any]", function).get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _letters(text: str) -> str:
    """Return letters and digits alone: templates trim, indent and escape the rest."""
    return "".join(filter(str.isalnum, re.sub(r"\\u[0-9a-fA-F]{4}|\\[nrt]", "", text)))


def _alike(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return how many tokens two rows begin with alike."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ids, others, strict=False)))


def _groups(places: Sequence[int]) -> int:
    """Return how many runs of neighbours there are."""
    return sum(place - 1 not in places for place in places)


def _runs(mask: Sequence[int]) -> list[tuple[int, int]]:
    """Return where a mask is 1: first places, and the places behind the last."""
    runs: list[tuple[int, int]] = []
    start = 0
    for marked, group in groupby(mask):
        end = start + len([*group])
        if marked:
            runs.append((start, end))
        start = end
    return runs
