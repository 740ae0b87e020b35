"""A conversation, of which the assistant's turns are learnt."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.chat_template import PROBE, ChatTemplate, Rendered
from ftlib.data.cleaning import clean
from ftlib.data.conversations import (
    ROLES,
    Message,
    Role,
    conversation,
    ordered,
    tools_in,
    transcript,
    up_to_answer,
    up_to_question,
)
from ftlib.data.formats.prompt_completion import too_long_prompt
from ftlib.data.formats.text import TextFormat, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.row_targets import Turns
from ftlib.data.rows import Dropped, Encoded, Example, Values, slice_values


class Chat(TextFormat):
    """A conversation as the model's own chat template writes it; the assistant's turns are learnt, their ends too.

    Rows hold a list of turns, OpenAI's (`role`, `content`, `tool_calls`) or ShareGPT's (`from`, `value`), or, as Alpaca
    has them, an instruction, an input that may be absent, and an output, each in a column of its own.
    """

    kind: Literal["chat"] = "chat"
    messages: str | None = None
    """The column that holds a list of turns; in csv, as JSON."""
    instruction: str | None = None
    """The column of what the user asks, where turns are no list."""
    input: str | None = None
    """The column of what the user asks about; it stands an empty line below the instruction."""
    output: str | None = None
    """The column of what the assistant answers; unset only where nothing is learnt."""
    system: str | None = None
    """The column of what stands before all turns."""
    tools: str | None = None
    """The column of the tools that the assistant may call: JSON schemas, a list for each row."""
    roles: dict[str, Role] = {}
    """What roles are called in the rows, beside system, developer, user, human, assistant, gpt, tool and function."""
    learn: Literal["all", "last", "nothing"] = "all"
    """Whether all of the assistant's turns are learnt, or the last alone. nothing: rows are prompts alone, up to their
    last turn of the user or a tool, for a policy that learns from its own answers."""
    template: str | None = None
    """The text of a chat template, or the name of one of the model's; unset: the model's own."""
    max_tokens: int = Field(default=1024, gt=3)
    """Of a longer chat, `too_long` says what is left out."""
    too_long: Literal["drop_turns", "drop_row"] = "drop_turns"
    """Whether a longer chat loses whole turns from its end, so that it ends with an answer that fits, or is dropped.
    One whose first answer does not fit is dropped either way."""
    special_tokens: SpecialTokens = "split"
    """Whether a turn that spells one, `<|im_end|>` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    yields: ClassVar[BatchKind] = "chats"
    keeps_lines: ClassVar[bool] = True

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        apart = {"instruction": self.instruction, "input": self.input, "output": self.output}
        given = [name for name, column in apart.items() if column is not None]
        if self.messages is not None and given:
            raise ValueError(
                f"messages is a list of turns, and {', '.join(given)} are columns of single ones; give one"
            )
        if self.messages is None and not (self.instruction and (self.output or self.asks_alone)):
            raise ValueError("give messages, the column of a list of turns, or instruction and output")
        if self.asks_alone and self.output:
            raise ValueError("learn: nothing reads prompts alone, got output; remove one of the two")
        if strange := sorted({*self.roles.values()} - {*ROLES}):
            raise ValueError(f"roles: {', '.join(strange)} are none; roles are {', '.join(ROLES)}")
        return self

    @property
    @override
    def asks_alone(self) -> bool:
        return self.learn == "nothing"

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        own = (self.messages, self.instruction, self.input, self.output, self.system, self.tools)
        return (*filter(None, own), *self.slices)

    @property
    @override
    def reads_turns(self) -> bool:
        return self.messages is not None

    @override
    def chat_template(self, processor: Processor) -> ChatTemplate:
        return ChatTemplate(processor.tokenizer, self.template)

    def example(self, values: Values) -> Example | Dropped:
        """Return a row's turns, told apart by those before the last answer, or why there are none to learn from."""
        messages = self._messages(values)
        if isinstance(messages, Dropped):
            return messages
        tools = tools_in(values.get(self.tools)) if self.tools else None
        if isinstance(tools, Dropped):
            return tools
        example = chat_example(messages, tools, slice_values(values, self.slices))
        return replace(example, target="") if self.asks_alone else example

    def _messages(self, values: Values) -> list[Message] | Dropped:
        if self.messages is not None:
            roles: dict[str, Role] = {name.lower(): role for name, role in self.roles.items()}
            part = up_to_question if self.asks_alone else up_to_answer
            messages = conversation(values.get(self.messages), roles, part)
        else:
            asked = self._asked(values)
            answer = _one_text(values, self.output, "missing_completion") if self.output else ""
            if isinstance(asked, Dropped) or isinstance(answer, Dropped):
                return asked if isinstance(asked, Dropped) else cast(Dropped, answer)
            messages = [{"role": "user", "content": asked}]
            messages += [{"role": "assistant", "content": answer}] if answer else []
        if isinstance(messages, Dropped) or self.system is None or not values.get(self.system):
            return messages
        system = _one_text(values, self.system, "missing_text")
        return system if isinstance(system, Dropped) else ordered([{"role": "system", "content": system}, *messages])

    def _asked(self, values: Values) -> str | Dropped:
        asked = _one_text(values, cast(str, self.instruction), "missing_text")
        if isinstance(asked, Dropped) or self.input is None or not values.get(self.input):
            return asked
        about = _one_text(values, self.input, "missing_text")
        if isinstance(about, Dropped):
            return asked if about.reason == "empty_content" else about
        return f"{asked}\n\n{about}"

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for an answer of one word to a question of one."""
        probe = ChatTemplate(tokenizer, self.template).render(PROBE)
        return len(probe.ids) if isinstance(probe, Rendered) else 2

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per chat, or why it is dropped; one without an answer is a prompt, and teaches nothing.

        A user's prompt is read whole (target None), a row's ("") must leave room for an answer.


        Raises ModelError where there is no chat template.
        """
        template, split = self.chat_template(processor), self.special_tokens == "split"
        end = template.end
        return [
            self._encoded(example, template, end, spelt=split and template.is_spelt(example.parts))
            for example in examples
        ]

    def _encoded(self, example: Example, template: ChatTemplate, end: int | None, *, spelt: bool) -> Encoded:
        """Return a chat up to the last answer that fits, or the prompt that it is where the last turn is no answer."""
        tools, *messages = map(json.loads, example.parts)
        if messages[-1]["role"] != "assistant":
            prompt = template.prompt(messages, tools, spelt=spelt)
            if isinstance(prompt, Dropped):
                return Encoded([], dropped=prompt)
            if example.target is not None and len(prompt) >= self.max_tokens:
                return Encoded([], dropped=too_long_prompt(len(prompt), self.max_tokens))
            return Encoded([text_piece(prompt, Turns(places=[], answer="", end=end), 0)])
        ends = [turn + 1 for turn, message in enumerate(messages) if message["role"] == "assistant"]
        if self.too_long == "drop_row":
            ends = ends[-1:]
        for kept in reversed(ends):
            rendered = template.render(messages[:kept], tools, spelt=spelt, last_only=self.learn == "last")
            if isinstance(rendered, Dropped):
                return Encoded([], dropped=rendered)
            if len(rendered.ids) <= self.max_tokens:
                return Encoded([self._piece(rendered, messages[kept - 1], end)], truncated=kept < len(messages))
        return Encoded([], dropped=Dropped("too_long", f"max_tokens: {self.max_tokens}"))

    def _piece(self, rendered: Rendered, answer: Message, end: int | None) -> Any:
        runs = rendered.runs if self.learn == "all" else rendered.runs[-1:]
        runs = [(max(first, 1), last) for first, last in runs]  # nothing stands before a row's first token
        target = Turns(places=[place for run in runs for place in run], answer=answer["content"], end=end)
        return text_piece(rendered.ids, target, sum(last - first for first, last in runs))


def chat_example(messages: Sequence[Message], tools: Any, slices: tuple[str, ...] = ()) -> Example:
    """Return an example of messages: its text is what was said before the last answer, its parts are rendered.

    Tools that are offered or called are part of the text: the same question with others is another row.
    """
    asked = messages[:-1] if messages[-1]["role"] == "assistant" else messages
    said = [
        {**one, "content": f"{one['content']} {_json(calls)}"} if (calls := one.get("tool_calls")) else one
        for one in asked
    ]
    text = f"{_json(tools)}\n\n{transcript(said)}" if tools else transcript(said)
    parts = tuple(json.dumps(part, ensure_ascii=False) for part in (tools, *messages))
    return Example(text, None, slices, parts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def _one_text(values: Values, column: str, missing: Literal["missing_text", "missing_completion"]) -> str | Dropped:
    value = values.get(column)
    if value is None:
        return Dropped(missing)
    if not isinstance(value, str):
        return Dropped("content_not_a_text")
    return clean(value, keep_lines=True) if value.strip() else Dropped("empty_content")
