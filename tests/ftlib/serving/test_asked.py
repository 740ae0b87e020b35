"""What a body asks, and in which words it is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ftlib.errors import DataError
from ftlib.serving.asked import body_of, inputs_of, label_of


@pytest.mark.parametrize(
    ("asks", "given", "text"),
    [
        ("text", "a line", "a line"),
        ("question", {"question": "who?", "context": "me"}, '{"question": "who?", "context": "me"}'),
        ("chat", "hello", "hello"),
        ("chat", [{"role": "user", "content": "é"}], '[{"role": "user", "content": "é"}]'),
    ],
)
def test_an_input_becomes_the_line_that_predict_takes(asks: Any, given: Any, text: str) -> None:
    (one,) = inputs_of({"inputs": [given]}, asks, 4)
    assert (one.text, one.image) == (text, None)
    assert len(one.request) == 32


def test_an_image_is_bytes_and_never_a_path() -> None:
    given = {"image_base64": base64.b64encode(b"\x89PNG").decode()}
    (one,) = inputs_of({"inputs": [given], "request_ids": ["r"]}, "image", 4)
    assert one == ("r", "", b"\x89PNG")
    for wrong in ("/etc/passwd", {"file": "/etc/passwd"}, {"image_base64": "no base64!"}, {"image_base64": 3}):
        with pytest.raises(DataError, match=r"inputs\[0\]"):
            inputs_of({"inputs": [wrong]}, "image", 4)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": "a"},
        {"inputs": []},
        {"inputs": ["a"] * 5},
        {"inputs": [1]},
        {"inputs": [None]},
        {"inputs": [{"question": "q", "context": "c"}]},
        {"inputs": ["\ud800"]},
        {"inputs": ["a"], "more": 1},
        {"inputs": ["a"], "request_ids": []},
        {"inputs": ["a", "b"], "request_ids": ["x", "x"]},
        {"inputs": ["a"], "request_ids": [""]},
        {"inputs": ["a"], "request_ids": ["x" * 201]},
        {"inputs": ["a"], "request_ids": ["\udfff"]},
        {"inputs": ["a"], "request_ids": "x"},
    ],
)
def test_anything_else_is_refused_in_one_line(body: dict[str, Any]) -> None:
    with pytest.raises(DataError) as refused:
        inputs_of(body, "text", 4)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"1", b'"a"', b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(data: bytes) -> None:
    with pytest.raises(DataError):
        body_of(data)


def test_feedback_says_something_of_a_request() -> None:
    late = label_of({"request": "r1", "thumb": False})
    assert (late.request, late.thumb, late.label) == ("r1", False, None)
    assert late.at
    for wrong in ({"request": "r1"}, {"thumb": True}, {"request": "r1", "thumb": "yes"}, {"request": "", "label": "x"}):
        with pytest.raises(DataError):
            label_of(json.loads(json.dumps(wrong)))
    with pytest.raises(DataError, match="unknown field 'at'"):
        label_of({"request": "r1", "thumb": True, "at": "1999"})


def test_a_label_is_one_of_the_model_s() -> None:
    """No answer could be right by another: a slip would count against the model."""
    for label in ("bug", "1"):  # a table may spell the second as 1.0
        assert label_of({"request": "r1", "label": label}, ("bug", "1.0")).label == label
    with pytest.raises(DataError, match="label: got 'bugg', the model answers with bug, billing; send one of these"):
        label_of({"request": "r1", "label": "bugg"}, ("bug", "billing"))
    assert label_of({"request": "r1", "correction": "bugg"}, ("bug",)).correction == "bugg"


@pytest.mark.parametrize(("inputs", "remedy"), [([], "send at least one"), (["a"] * 5, "send more in several")])
def test_how_many_inputs_is_told_with_what_to_do(inputs: list[str], remedy: str) -> None:
    with pytest.raises(DataError, match=remedy):
        inputs_of({"inputs": inputs}, "text", 4)
