"""Chats: what is read, what is learnt, what is left out, against stock transformers and chats written out by hand."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ftlib.data.chat_template import ChatTemplate
from ftlib.data.formats.chat import Chat
from ftlib.data.processor import Processor
from ftlib.data.row_reasons import REMEDIES
from ftlib.data.rows import Dropped, Encoded, Example
from ftlib.errors import ModelError
from ftlib.testing import TINY_TEMPLATE, tiny_chat_tokenizer, tiny_chats, tiny_lm_tokenizer

MARKED = (
    "{% for m in messages %}{{ bos_token }} {{ m.role }} : {% if m.role == 'assistant' %}{% generation %}"
    "{{ m.content }}{{ eos_token }}{% endgeneration %}{% else %}{{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }} assistant :{% endif %}"
)
UNPROMPTED = TINY_TEMPLATE.partition("{% if add_generation_prompt")[0]
WHOLE_TURN_MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ bos_token }} assistant : {{ m.content }}"
    "{{ eos_token }}{% endgeneration %}{% else %}{{ bos_token }} {{ m.role }} : {{ m.content }}{{ eos_token }}"
    "{% endif %}{% endfor %}"
)
FORGETS = (
    "{% for m in messages %}{{ bos_token }} {{ m.role }} : {% if m.role != 'assistant' or loop.last %}{{ m.content }}"
    "{% else %}gone{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }} assistant :{% endif %}"
)
"""As templates that take the reasoning out of earlier answers."""
FORMAT = Chat(messages="messages", max_tokens=300)


def turn(role: str, content: Any = "a word", **more: Any) -> dict[str, Any]:
    return {"role": role, "content": content, **more}


ASKED = [turn("user", "where is my parcel"), turn("assistant", "ask the courier")]


def encoded(format: Chat, *rows: dict[str, Any], template: str = TINY_TEMPLATE) -> list[Encoded]:
    examples = [format.example(row) for row in rows]
    assert all(isinstance(example, Example) for example in examples), examples
    return format.encode(examples, Processor.of(tiny_chat_tokenizer(template)))  # type: ignore[arg-type]


def learnt(found: Encoded) -> list[list[int]]:
    (piece,) = found.pieces
    target: Any = piece.target
    runs = list(zip(target["places"][::2], target["places"][1::2], strict=True))
    assert piece.supervised == sum(end - first for first, end in runs)
    return [piece.ids[first:end] for first, end in runs]


def test_where_nothing_is_learnt_rows_are_prompts_up_to_the_last_question() -> None:
    format = FORMAT.model_copy(update={"learn": "nothing"})
    tokenizer = tiny_chat_tokenizer()
    again = turn("user", "and where else")
    for messages, asked in ((ASKED, ASKED[:1]), ([*ASKED, again], [*ASKED, again]), (ASKED[:1], ASKED[:1])):
        (found,) = encoded(format, {"messages": messages})
        stock = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert found.pieces[0].ids == stock
        assert found.pieces[0].supervised == 0
    assert format.example({"messages": [turn("system")]}) == Dropped("no_question")
    (long,) = encoded(format.model_copy(update={"max_tokens": 5}), {"messages": ASKED})
    assert long.dropped is not None
    assert long.dropped.reason == "prompt_too_long"
    alpaca = Chat(instruction="do", input="with", learn="nothing")
    assert alpaca.columns == ("do", "with")
    (found,) = encoded(alpaca, {"do": "translate", "with": "a word"})
    assert found.pieces[0].supervised == 0
    with pytest.raises(ValidationError, match="learn: nothing reads prompts alone, got output"):
        Chat(instruction="do", output="done", learn="nothing")


def test_a_chat_is_what_stock_transformers_makes_of_it_and_the_answers_are_learnt_with_their_ends() -> None:
    tokenizer = tiny_chat_tokenizer()
    for row, found in zip(tiny_chats(20), encoded(FORMAT, *tiny_chats(20)), strict=True):
        stock = tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"]
        assert found.pieces[0].ids == stock
        by_hand = [
            tokenizer(message["content"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            for message in row["messages"]
            if message["role"] == "assistant"
        ]
        assert learnt(found) == by_hand


def test_marks_of_the_template_say_what_is_learnt_as_transformers_reads_them() -> None:
    tokenizer = tiny_chat_tokenizer(MARKED)
    for row, found in zip(tiny_chats(12), encoded(FORMAT, *tiny_chats(12), template=MARKED), strict=True):
        stock = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        mask = [0] * len(stock["input_ids"])
        places = found.pieces[0].target["places"]
        for first, end in zip(places[::2], places[1::2], strict=True):
            mask[first:end] = [1] * (end - first)
        assert mask == stock["assistant_masks"]
    assert [learnt(one) for one in encoded(FORMAT, *tiny_chats(12), template=MARKED)] == [
        learnt(one) for one in encoded(FORMAT, *tiny_chats(12))
    ]


@given(st.lists(st.sampled_from(["ask", "wait", "call support", "open [x]"]), min_size=1, max_size=4), st.booleans())
@settings(max_examples=25)
def test_both_rules_learn_the_same_of_any_chat(answers: list[str], system: bool) -> None:
    messages = [turn("system")] * system
    for i, answer in enumerate(answers):
        messages += [turn("user", f"question {i}"), turn("assistant", answer)]
    by_prefix, by_marks = (encoded(FORMAT, {"messages": messages}, template=t)[0] for t in (TINY_TEMPLATE, MARKED))
    assert by_prefix.pieces == by_marks.pieces
    assert len(learnt(by_prefix)) == len(answers)


@pytest.mark.parametrize(
    ("template", "learns"),
    [
        (TINY_TEMPLATE, False),
        (MARKED, False),
        (UNPROMPTED, True),
        (MARKED.replace("{% if add", "{# ").replace("assistant :{% endif %}", "#}"), False),  # the marks leave it out
        (WHOLE_TURN_MARKED, True),
        (TINY_TEMPLATE.replace(": {{ message", ": {{ pad_token }} {{ message"), False),
        (TINY_TEMPLATE.replace(": {{ message", ": why {{ message"), False),
        (TINY_TEMPLATE.replace(" assistant :{%", "{%"), True),
        ("{{ raise_exception('no such role') }}", False),
    ],
    ids=[
        "prompt",
        "marks",
        "no prompt",
        "marks, no prompt",
        "marks around the turn",
        "a marker",
        "a thought",
        "half a prompt",
        "refuses",
    ],
)
def test_words_that_are_learnt_before_an_answer_are_a_header(template: str, learns: bool) -> None:
    assert ChatTemplate(tiny_chat_tokenizer(template)).learns_header == learns
    (found,) = encoded(FORMAT, {"messages": ASKED}, template=template)
    if learns:
        ((*header, _, _, _, _),) = learnt(found)  # ask the courier [SEP]
        assert tiny_chat_tokenizer().decode(header, skip_special_tokens=True) == "assistant :"


def test_the_last_answer_alone_is_learnt_where_it_is_asked_for() -> None:
    row = tiny_chats(1)[0]
    all_of, last = (learnt(encoded(Chat(messages="messages", learn=how), row)[0]) for how in ("all", "last"))
    assert len(all_of) > 1
    assert last == all_of[-1:]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"from": "human", "value": "where is my parcel"}, {"from": "gpt", "value": "ask the courier"}]},
        {"messages": json.dumps(ASKED)},
        {"messages": [*ASKED, turn("user", "thanks")]},
        {"messages": [{**message, "tool_calls": None, "name": None} for message in ASKED]},
        {"messages": [turn("user", [{"type": "text", "text": part} for part in ("where is ", "my parcel")]), ASKED[1]]},
        {"messages": [turn("User ", " where is my parcel \n".strip()), turn("ASSISTANT", "ask the courier  \n")]},
    ],
    ids=["sharegpt", "json in csv", "a turn after the last answer", "nulls of a table", "parts", "case and blanks"],
)  # fmt: skip
def test_all_ways_to_write_a_chat_are_one(row: dict[str, Any]) -> None:
    assert encoded(FORMAT, row)[0].pieces == encoded(FORMAT, {"messages": ASKED})[0].pieces


def test_alpaca_is_columns() -> None:
    format = Chat(instruction="instruction", input="input", output="output", system="about")
    rows = {"instruction": "translate", "input": "a parcel", "output": "une boite", "about": "you help"}
    expected = [turn("system", "you help"), turn("user", "translate\n\na parcel"), turn("assistant", "une boite")]
    assert encoded(format, rows)[0].pieces == encoded(FORMAT, {"messages": expected})[0].pieces
    bare = {"instruction": "translate", "input": "", "output": "une boite"}
    assert (
        encoded(format, bare)[0].pieces
        == encoded(FORMAT, {"messages": [turn("user", "translate"), expected[2]]})[0].pieces
    )
    assert format.columns == ("instruction", "input", "output", "about")


def test_roles_may_be_called_otherwise() -> None:
    row = {"messages": [turn("customer", "where is my parcel"), turn("agent", "ask the courier")]}
    assert FORMAT.example(row) == Dropped("unknown_role")
    named = Chat(messages="messages", roles={"customer": "user", "Agent": "assistant"})
    assert encoded(named, row)[0].pieces == encoded(FORMAT, {"messages": ASKED})[0].pieces


TOOLS = (
    "{% if tools %}{{ tools | tojson }}{{ eos_token }}{% endif %}{% for m in messages %}{{ bos_token }} {{ m.role }} : "
    "{{ m.content }}{% if m.tool_calls %}{% for c in m.tool_calls %} call {{ c.function.name }} "
    "{{ c.function.arguments | tojson }}{% endfor %}{% endif %}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token }} assistant :{% endif %}"
)


def test_tool_calls_and_their_results_are_kept() -> None:
    call = {"type": "function", "id": "c1", "function": {"name": "track", "arguments": '{"parcel": 7}'}}
    messages = [
        turn("user", "where is it"),
        turn("assistant", None, tool_calls=[call]),
        turn("tool", '{"place": "depot"}', tool_call_id="c1"),
        turn("assistant", "in the depot"),
    ]
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
    row = {"messages": messages, "tools": json.dumps([tool])}
    (found,) = encoded(Chat(messages="messages", tools="tools", max_tokens=500), row, template=TOOLS)
    tokenizer = tiny_chat_tokenizer(TOOLS)
    whole = tokenizer.decode(found.pieces[0].ids).replace(" ", "")
    assert '"name":"track","parameters"' in whole
    assert [tokenizer.decode(ids).replace(" ", "") for ids in learnt(found)] == [
        'calltrack{"parcel":7}[SEP]',
        "inthedepot[SEP]",
    ]


CALL = turn("assistant", "", tool_calls=[{"function": {"name": "track", "arguments": {"parcel": 7}}}])
TOOL = {"type": "function", "function": {"name": "track", "parameters": {}}}
LAST_THINKS = (
    "{% for m in messages %}{{ bos_token }} {{ m.role }} : {% if m.role == 'assistant' and loop.last %}why {% endif %}"
    "{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}{{ bos_token }} assistant :{% endif %}"
)
"""As templates that write a reasoning block before the last answer alone."""


@pytest.mark.parametrize("template", [TINY_TEMPLATE, MARKED], ids=["prefixes", "marks"])
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_a_call_that_the_template_has_no_place_for_teaches_nothing(template: str, tools: Any) -> None:
    format = FORMAT.model_copy(update={"tools": "t"})
    lost = Dropped("turn_not_rendered", "the tool 'track' is not in what the template writes")
    (found,) = encoded(format, {"messages": [ASKED[0], CALL], "t": tools}, template=template)
    assert found.dropped == lost
    asks = format.model_copy(update={"learn": "nothing"})
    (found,) = encoded(asks, {"messages": ASKED[:1], "t": [TOOL]}, template=template)
    assert found.dropped == lost
    odd = turn("assistant", "", tool_calls=[{"function": "track"}])
    (found,) = encoded(format, {"messages": [ASKED[0], odd]}, template=template)
    assert found.dropped is not None


def test_earlier_answers_may_be_written_otherwise_where_the_last_alone_is_learnt() -> None:
    chat = {"messages": [*ASKED, turn("user"), turn("assistant", "at the door")]}
    (found,) = encoded(FORMAT, chat, template=LAST_THINKS)
    assert found.dropped is not None
    (found,) = encoded(FORMAT.model_copy(update={"learn": "last"}), chat, template=LAST_THINKS)
    tokenizer = tiny_chat_tokenizer(LAST_THINKS)
    (run,) = learnt(found)
    assert tokenizer.decode(run) == "why at the door [SEP]"


def test_neighbouring_answers_whose_headers_are_not_marked_are_two_runs() -> None:
    chat = {"messages": [*ASKED, turn("assistant", "at the door")]}
    assert learnt(encoded(FORMAT, chat, template=MARKED)[0]) == learnt(encoded(FORMAT, chat)[0])


def test_chats_of_other_tools_or_calls_are_no_copies() -> None:
    format = FORMAT.model_copy(update={"tools": "t"})
    oslo = turn("assistant", "", tool_calls=[{"function": {"name": "track", "arguments": {"parcel": 8}}}])
    rows = [
        *({"messages": ASKED, "t": tools} for tools in (None, [TOOL], [{**TOOL, "strict": True}])),
        *({"messages": [ASKED[0], call, turn("tool", "done"), ASKED[1]]} for call in (CALL, oslo)),
    ]
    texts = [format.example(row) for row in rows]
    assert len({example.text for example in texts if isinstance(example, Example)}) == len(rows)
    assert texts[0].text == "user: where is my parcel"  # type: ignore[union-attr]


def test_a_longer_chat_loses_whole_turns_from_its_end_or_is_dropped() -> None:
    messages = [m for i in range(3) for m in (turn("user", f"question {i}"), turn("assistant", f"answer {i}"))]
    sizes = [len(encoded(FORMAT, {"messages": messages[:end]})[0].pieces[0].ids) for end in (2, 4, 6)]
    for most in range(sizes[0] - 1, sizes[2] + 1):
        (found,) = encoded(FORMAT.model_copy(update={"max_tokens": most}), {"messages": messages})
        fits = [end for size, end in zip(sizes, (2, 4, 6), strict=True) if size <= most]
        if not fits:
            assert found.dropped is not None
            assert (found.dropped.reason, found.pieces) == ("too_long", [])
            continue
        assert found.pieces == encoded(FORMAT, {"messages": messages[: fits[-1]]})[0].pieces
        assert found.truncated == (fits[-1] < 6)
        (whole,) = encoded(
            FORMAT.model_copy(update={"max_tokens": most, "too_long": "drop_row"}), {"messages": messages}
        )
        assert bool(whole.pieces) == (fits[-1] == 6)


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        (None, "missing_messages"),
        ("not json", "messages_not_a_list"),
        ({"role": "user"}, "messages_not_a_list"),
        ([], "messages_not_a_list"),
        (["hello"], "turn_not_an_object"),
        ([turn("narrator")], "unknown_role"),
        ([{"content": "a"}], "unknown_role"),
        ([turn("user", " \n"), ASKED[1]], "empty_content"),
        ([turn("user", 7), ASKED[1]], "content_not_a_text"),
        ([turn("user", [{"type": "image_url", "image_url": {"url": "x"}}]), ASKED[1]], "image_in_chat"),
        ([turn("user", [{"type": "text", "text": "a"}, {"type": "image"}]), ASKED[1]], "image_in_chat"),
        ([turn("user"), turn("user")], "no_answer"),
        ([turn("system"), turn("system"), *ASKED], "several_system_turns"),
        ([*ASKED, turn("system"), *ASKED], "system_not_first"),
        ([turn("assistant"), *ASKED], "assistant_first"),
        ([turn("system"), turn("assistant"), *ASKED], "assistant_first"),
    ],
)
def test_what_is_no_chat_is_dropped_for_its_reason(messages: Any, reason: str) -> None:
    found = FORMAT.example({"messages": messages} if messages is not None else {})
    assert found == Dropped(reason)  # type: ignore[arg-type]
    assert reason == "missing_messages" or reason in REMEDIES


NO_SYSTEM = TINY_TEMPLATE.replace("for message in messages", "for message in messages if message.role != 'system'")


@pytest.mark.parametrize(
    ("template", "first", "reason", "said"),
    [
        (FORGETS, [], "turns_not_told_apart", "turn 2 (assistant)"),
        ("{{ raise_exception('no such role') }}", [], "template_refuses", "no such role"),
        ("{% for m in messages %}{{ m.nothing.at_all }}{% endfor %}", [], "template_refuses", "no attribute"),
        (
            "{% for m in messages if m.role != 'user' %}{{ m.content }}{{ eos_token }}{% endfor %}",
            [],
            "turn_not_rendered",
            "turn 1 (user)",
        ),
        *(
            (NO_SYSTEM, [turn("system", said)], "turn_not_rendered", "turn 1 (system)")
            for said in ("be brief", "ask the courier", "!!!", "ask")
        ),
    ],
)
def test_what_the_template_cannot_write_is_dropped_and_the_turn_named(
    template: str, first: list[Any], reason: str, said: str
) -> None:
    (found,) = encoded(FORMAT, {"messages": [*first, *ASKED, *ASKED]}, template=template)
    assert found.pieces == []
    assert found.dropped is not None
    assert found.dropped.reason == reason
    assert said in found.dropped.detail


def test_a_turn_that_a_template_writes_by_what_it_says_is_no_turn_left_out() -> None:
    """The words by which turns are looked for are none that this template knows, and no capitals."""
    known = "{% if message.role == 'system' %}{{ {'brief': 'brief'}[message.content].upper() }}{% endif %}"
    for picky in (known, "{% if 'zq' in message.content %}{{ raise_exception('odd') }}{% endif %}"):
        template = TINY_TEMPLATE.replace(
            "{{ bos_token }} {{ message.role", picky + "{{ bos_token }} {{ message.role", 1
        )
        (found,) = encoded(FORMAT, {"messages": [turn("system", "brief"), *ASKED]}, template=template)
        assert found.dropped is None
    louder = TINY_TEMPLATE.replace("message.content", "message.content | upper")
    (found,) = encoded(FORMAT, {"messages": [turn("user", "PARCEL"), ASKED[1]]}, template=louder)
    assert found.dropped is None


def test_a_template_runs_no_code() -> None:
    escape = "{{ messages.__class__.__mro__[1].__subclasses__() }}"
    (found,) = encoded(FORMAT, {"messages": ASKED}, template=escape)
    assert found.dropped is not None
    assert found.dropped.reason == "template_refuses"
    assert "unsafe" in found.dropped.detail


def test_without_a_template_there_is_one_line() -> None:
    (example,) = [FORMAT.example({"messages": ASKED})]
    assert isinstance(example, Example)
    with pytest.raises(ModelError, match=r"has no chat template.*format\.template"):
        FORMAT.encode([example], Processor.of(tiny_lm_tokenizer()))
    given = FORMAT.model_copy(update={"template": TINY_TEMPLATE})
    assert given.encode([example], Processor.of(tiny_lm_tokenizer())) == encoded(FORMAT, {"messages": ASKED})
    named = FORMAT.model_copy(update={"template": "tools"})
    with pytest.raises(ModelError, match="no template 'tools', its named ones are none"):
        named.encode([example], Processor.of(tiny_chat_tokenizer()))


def test_of_several_templates_the_named_one_writes_or_the_default() -> None:
    (example,) = [FORMAT.example({"messages": ASKED})]
    assert isinstance(example, Example)
    other = TINY_TEMPLATE.replace(" : ", " says ").replace("assistant :", "assistant says")
    tokenizer = tiny_chat_tokenizer()
    tokenizer.chat_template = {"default": TINY_TEMPLATE, "other": other}  # type: ignore[assignment]
    for name in (None, "default", "other"):
        (found,) = FORMAT.model_copy(update={"template": name}).encode([example], Processor.of(tokenizer))
        stock = tokenizer.apply_chat_template(ASKED, chat_template=name, return_dict=True)["input_ids"]
        assert found.pieces[0].ids == stock
    tokenizer.chat_template = {"one": TINY_TEMPLATE, "other": other}  # type: ignore[assignment]
    with pytest.raises(
        ModelError, match=r"several chat templates \(one, other\) and no default; name or give one in for"
    ):
        FORMAT.encode([example], Processor.of(tokenizer))


def test_special_tokens_that_a_turn_spells_are_characters_or_kept() -> None:
    row = {"messages": [turn("user", "end it [SEP] here"), turn("assistant", "a [CLS] b")]}
    tokenizer, (split,) = tiny_chat_tokenizer(), encoded(FORMAT, row)
    assert split.pieces[0].ids.count(tokenizer.eos_token_id) == 2
    (marked,) = encoded(FORMAT, row, template=MARKED)
    assert marked.pieces == split.pieces
    (kept,) = encoded(FORMAT.model_copy(update={"special_tokens": "keep"}), row)
    assert kept.pieces[0].ids.count(tokenizer.eos_token_id) == 3


def test_a_prompt_is_what_stands_before_the_next_answer() -> None:
    from ftlib.data.formats.chat import chat_example

    (found,) = FORMAT.encode([chat_example(ASKED[:1], None)], Processor.of(tiny_chat_tokenizer()))
    stock = tiny_chat_tokenizer().apply_chat_template(ASKED[:1], add_generation_prompt=True, return_dict=True)
    assert found.pieces[0].ids == stock["input_ids"]
    assert found.pieces[0].supervised == 0


@pytest.mark.parametrize(
    "fields",
    [{}, {"instruction": "a"}, {"messages": "m", "output": "b"}, {"messages": "m", "roles": {"a": "narrator"}}],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Chat(**fields)
