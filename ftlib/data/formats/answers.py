"""Prompts with answers that are compared or judged: what the formats of preferences and of thumbs share."""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, cast

from pydantic import Field, model_validator
from typing_extensions import override

from ftlib.config import BatchKind, SpecialTokens
from ftlib.data.chat_template import PROBE, ChatTemplate, Rendered
from ftlib.data.cleaning import clean
from ftlib.data.conversations import Message, messages_of, tools_in, turns_in
from ftlib.data.formats.base import Prompting
from ftlib.data.formats.prompt_completion import completion_of, leading_tokens, too_long_prompt
from ftlib.data.formats.text import TextFormat, text_of, text_piece
from ftlib.data.processor import Processor, Tokenizer
from ftlib.data.rows import Dropped, Encoded, Example, Piece, Value, Values


class Answered(NamedTuple):
    """A prompt and an answer to it, as the model reads them."""

    ids: list[int]
    """Up to the answer's end."""
    first: int
    """The answer's first token; what stands before it is the prompt."""


class AnswerFormat(TextFormat, ABC):
    """A prompt and one or several answers to it, each a sequence of its own: prompt, answer, end.

    As texts they are put together as `prompt_completion` does it, as chats by the model's own chat template. No answer
    is ever cut: a row that is too long is dropped, and its reason says whether its prompt alone is.
    """

    prompt: str
    """The column of what is asked: a text or, of chats, a list of turns too, in csv as JSON."""
    layout: Literal["texts", "chats"] = "texts"
    """texts: prompt, separator, answer and the end-of-text token. chats: as the model's own chat template writes it;
    an answer is then a text, a turn of the assistant, or a list of turns that ends with one and may begin with the
    prompt's."""
    prefix: str = ""
    """What stands before every prompt of texts and names the task."""
    separator: str = "\n"
    """Stands between prompt and answer of texts."""
    tools: str | None = None
    """Of chats the column of the tools that the assistant may call: JSON schemas, a list for each row. An answer that
    calls one is a turn with `tool_calls`."""
    template: str | None = None
    """The text of a chat template, or the name of one of the model's; unset: the model's own."""
    max_tokens: int = Field(default=1024, gt=3)
    """Of a prompt with one answer; a row that is longer is dropped."""
    special_tokens: SpecialTokens = "split"
    """Whether a text that spells one, `<|im_end|>` or `</s>`, is read as these characters, or as the token: `keep`."""
    slices: tuple[str, ...] = ()
    """Columns whose values split the evaluation report."""

    keeps_lines: ClassVar[bool] = True
    introduced: ClassVar[Mapping[str, object]] = {"tools": None}

    @model_validator(mode="after")
    def _one_layout(self) -> Self:
        if self.layout == "texts" and self.template is not None:
            raise ValueError("template writes chats, got layout: texts; set layout: chats, or remove it")
        if self.layout == "texts" and self.tools is not None:
            raise ValueError("tools are told by a chat template, got layout: texts; set layout: chats, or remove it")
        if self.layout == "chats" and (self.prefix or self.separator != "\n"):
            raise ValueError("prefix and separator stand in texts, and the template puts chats together; remove them")
        return self

    @property
    @abstractmethod
    def answer_columns(self) -> tuple[str, ...]:
        """Return the columns that hold the answers."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns that must be there."""
        return (self.prompt, *self.answer_columns, *self.tool_columns, *self.slices)

    @property
    def tool_columns(self) -> tuple[str, ...]:
        """Return the column of tools, if there is one."""
        return () if self.tools is None else (self.tools,)

    @property
    @override
    def asked_as(self) -> BatchKind:
        return "chats" if self.layout == "chats" else "completions"

    @property
    @override
    def reads_turns(self) -> bool:
        return self.layout == "chats"

    @property
    @override
    def prompting(self) -> Prompting | None:
        if self.layout == "chats":
            return None
        reads = self.separator.rstrip(" ")
        return Prompting(column=self.prompt, separator=self.separator, reads=reads, prefix=self.prefix)

    @override
    def chat_template(self, processor: Processor) -> ChatTemplate | None:
        return ChatTemplate(processor.tokenizer, self.template) if self.layout == "chats" else None

    def texts_of(self, values: Values) -> tuple[str, ...] | Dropped:
        """Return a row's answers and then its prompt, a text or, of chats, JSON turns; or why it lacks one.

        Where a chat has tools, their list stands before its turns.
        """
        prompt = self._turns(values.get(self.prompt)) if self.layout == "chats" else self._prompt(values)
        if isinstance(prompt, Dropped):
            return prompt
        answers: list[str] = []
        for column in self.answer_columns:
            answer = _answer(values, column, prompt)
            if isinstance(answer, Dropped):
                return answer
            answers.append(answer)
        if isinstance(prompt, str):
            return (*answers, prompt)
        tools = tools_in(values.get(self.tools)) if self.tools else None
        if isinstance(tools, Dropped):
            return tools
        told = [*([] if tools is None else [tools]), *prompt]
        return (*answers, *(json.dumps(one, ensure_ascii=False) for one in told))

    def _prompt(self, values: Values) -> str | Dropped:
        prompt = text_of(values, self.prompt)
        if isinstance(prompt, Dropped):
            return prompt
        cleaned = clean(prompt, keep_lines=True)
        return cleaned if cleaned.strip() else Dropped("empty_text")

    def _turns(self, value: Value) -> list[Message] | Dropped:
        if value is None or value == "":
            return Dropped("missing_messages")
        turns = turns_in(value) if isinstance(value, str) else messages_of(value, {})
        if isinstance(turns, list) and turns[-1]["role"] not in ("user", "tool"):
            return Dropped("prompt_ends_with_answer")
        return turns

    def least_tokens(self, tokenizer: Tokenizer) -> int:
        """Return what `max_tokens` must be for an answer of one token to a prompt of one."""
        if self.layout == "chats":
            probe = ChatTemplate(tokenizer, self.template).render(PROBE)
            return len(probe.ids) if isinstance(probe, Rendered) else 2
        return len(leading_tokens(tokenizer)) + len(self._plain_ids([self.prefix], tokenizer)[0]) + 2

    def encode(self, examples: Sequence[Example], processor: Processor) -> list[Encoded]:
        """Return one piece per row, or why it is dropped; an example without answers is a prompt, and teaches nothing.

        Raises ModelError where chats have no chat template.
        """
        tokenizer = processor.tokenizer
        if self.layout == "chats":
            template = ChatTemplate(tokenizer, self.template)
            end = template.end
            return [self._of_chat(example, template, end) for example in examples]
        return self._of_texts(examples, tokenizer)

    @abstractmethod
    def piece(self, example: Example, answered: Sequence[Answered], end: int | None) -> Piece | Dropped:
        """Return the row that a prompt with each of its answers makes."""

    def _of_texts(self, examples: Sequence[Example], tokenizer: Tokenizer) -> list[Encoded]:
        """Tokenise prompts and answers apart, all of a batch at once, as `prompt_completion` does."""
        leading, end = leading_tokens(tokenizer), tokenizer.eos_token_id
        count = len(self.answer_columns)
        blanks = self.separator[len(self.separator.rstrip(" ")) :]
        asked = [example.text if example.target is None else example.parts[-1] for example in examples]
        prompts = self._plain_ids([f"{self.prefix}{text}{self.separator.rstrip(' ')}" for text in asked], tokenizer)
        answers = iter(
            self._plain_ids(
                [
                    f"{blanks}{text}"
                    for example in examples
                    if example.target is not None
                    for text in example.parts[:count]
                ],
                tokenizer,
            )
        )
        encoded: list[Encoded] = []
        for example, prompt in zip(examples, prompts, strict=True):
            before = [*leading, *prompt]
            if example.target is None:
                encoded.append(_prompt_alone(before, None))
                continue
            tails = [next(answers) for _ in range(count)]
            ended = [[*before, *tail, *([] if end is None else [end])] for tail in tails]
            encoded.append(self._encoded(example, [Answered(ids, max(1, len(before))) for ids in ended], end))
        return encoded

    def _plain_ids(self, texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
        if not texts:
            return []
        split = self.special_tokens == "split"
        return tokenizer(list(texts), add_special_tokens=False, verbose=False, split_special_tokens=split)["input_ids"]

    def _of_chat(self, example: Example, template: ChatTemplate, end: int | None) -> Encoded:
        """Let the template write the chat with each answer, up to that answer's end."""
        spelt = self.special_tokens == "split" and template.is_spelt(example.parts)
        if example.target is None:  # as a user asks: tools, then turns
            tools, *turns = map(json.loads, example.parts)
            prompt = template.prompt(turns, tools, spelt=spelt)
            return Encoded([], dropped=prompt) if isinstance(prompt, Dropped) else _prompt_alone(prompt, end)
        count = len(self.answer_columns)
        turns = [json.loads(turn) for turn in example.parts[count:]]
        tools = turns.pop(0) if isinstance(turns[0], list) else None
        answered: list[Answered] = []
        for answer in example.parts[:count]:
            whole = [*turns, _turn(answer)]
            rendered = template.render(whole, tools, spelt=spelt, last_only=True)
            if isinstance(rendered, Dropped):
                return Encoded([], dropped=rendered)
            first, last = rendered.runs[-1]
            answered.append(Answered(rendered.ids[:last], max(1, first)))
        if len({tuple(one.ids[: one.first]) for one in answered}) > 1:
            words = "the prompt is written otherwise before another answer"
            return Encoded([], dropped=Dropped("turns_not_told_apart", words))
        return self._encoded(example, answered, end)

    def _encoded(self, example: Example, answered: Sequence[Answered], end: int | None) -> Encoded:
        if answered[0].first >= self.max_tokens:
            return Encoded([], dropped=too_long_prompt(answered[0].first, self.max_tokens))
        if (longest := max(len(one.ids) for one in answered)) > self.max_tokens:
            said = f"prompt and answer have {longest} tokens, max_tokens: {self.max_tokens}"
            return Encoded([], dropped=Dropped("answer_too_long", said))
        piece = self.piece(example, answered, end)
        return Encoded([], dropped=piece) if isinstance(piece, Dropped) else Encoded([piece])


def _prompt_alone(ids: list[int], end: int | None) -> Encoded:
    return Encoded([text_piece(ids, {"places": [], "answer": "", "end": end}, 0)])


def _answer(values: Values, column: str, prompt: str | Sequence[Message]) -> str | Dropped:
    """Return an answer's text, cleaned, or why there is none."""
    value = values.get(column)
    if not isinstance(prompt, str) and isinstance(value, str):
        value = _written_turns(value)
    if isinstance(prompt, str) or value is None or isinstance(value, str):
        return completion_of(values, column)
    turns: Any = value if isinstance(value, list) else [value]
    messages = messages_of([*prompt, *turns] if len(turns) == 1 else turns, {})
    if isinstance(messages, Dropped):
        return messages
    if messages[-1]["role"] != "assistant":
        return Dropped("no_answer")
    if len(turns) > 1 and messages[:-1] != [*prompt]:
        return Dropped("answer_to_another_prompt")
    answer: str = messages[-1]["content"]
    if messages[-1].get("tool_calls"):
        return json.dumps(messages[-1], ensure_ascii=False)
    return answer if answer.strip() else Dropped("empty_completion")


def _written_turns(text: str) -> Any:
    """Return the turns that a text is in JSON, which is how csv holds them, or the text."""
    if text.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError, RecursionError):
            turns = json.loads(text)
            listed: list[Any] = turns if isinstance(turns, list) else [turns]
            if listed and all(isinstance(turn, dict) and ("role" in turn or "from" in turn) for turn in listed):
                return turns
    return text


def _turn(answer: str) -> Message:
    """Return an answer as a turn: a text that is one in JSON, with the tools that it calls, or what is said."""
    if answer.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            turn = json.loads(answer)
            if isinstance(turn, dict) and turn.get("role") == "assistant" and turn.get("tool_calls"):
                return cast(Message, turn)
    return {"role": "assistant", "content": answer}
