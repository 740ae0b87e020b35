"""Judges: counts and tests by hand, and an endpoint that a stub plays on the loopback, well and badly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError
from scipy.stats import binomtest

from ftlib.errors import ModelError, RecipeError, ReglageError, TransientError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.judges import Judge
from ftlib.evaluation.judges.base import JudgeBase, Pair, read_reply
from ftlib.evaluation.judges.comparing import compare
from ftlib.evaluation.judges.swapping import row_scores
from ftlib.testing import tiny_chat_lm
from tests.ftlib.evaluation.judges.endpoint_stub import Stub, answers, longer, serving

JUDGES: TypeAdapter[JudgeBase] = TypeAdapter(Judge)
RESAMPLING = Resampling(200, 0.95, 0)
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], Any]], Stub]]:
    with ExitStack() as running:
        yield lambda say: running.enter_context(serving(say))


def endpoint(stub: Stub, **fields: Any) -> JudgeBase:
    return JUDGES.validate_python({"kind": "endpoint", "url": stub.url, "model": "m", "attempts": 1, **fields})


PAIRS = [Pair("q", "a" * (i + 2), "b" * 5) for i in range(10)]
"""Three answers are shorter than their rivals, one is as long, six are longer."""


def test_counts_interval_and_sign_test_are_those_by_hand(serve: Any) -> None:
    stub = serve(longer)
    found = compare(endpoint(stub), PAIRS, RESAMPLING)
    assert (found.wins, found.ties, found.losses, found.rows, found.turned) == (6, 1, 3, 10, 0)
    assert found.win_rate.value == pytest.approx(0.65)
    low, _, high = found.win_rate.numbers() or (1, 1, 1)
    assert 0.2 < low < 0.65 < high <= 1
    assert found.p == pytest.approx(binomtest(6, 9).pvalue)
    assert found.first_place == 0.5
    assert (found.cost.calls, found.cost.tokens_in, found.cost.tokens_out) == (20, 200, 20)
    assert "6 won, 1 tied, 3 lost of 10" in found.line("ours", "theirs")
    assert {body["temperature"] for body in stub.asked} == {0}
    again = compare(endpoint(stub), PAIRS, RESAMPLING)  # nothing is asked twice
    assert len(stub.asked) == 20
    assert again.model_copy(update={"cost": found.cost}) == found
    assert again.cost.calls == 0
    one_more = compare(endpoint(stub), [Pair("other", "a", "b"), *PAIRS, PAIRS[0]], RESAMPLING)
    assert (one_more.cost.calls, len(stub.asked)) == (2, 22)  # among others, and as often as it is there


def test_a_judge_that_prefers_the_first_place_decides_nothing(serve: Any) -> None:
    found = compare(endpoint(serve(lambda _: "**A**.")), PAIRS, RESAMPLING)
    assert (found.wins, found.losses, found.turned, found.first_place, found.p) == (0, 0, 10, 1.0, 1.0)
    assert found.win_rate.numbers() == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        *(("A", "first"), ("Answer: B.", "second"), ("C\n", "tie"), ("**A**", "first"), ("", "unread")),
        *(("Abc", "unread"), ("A is better than B", "first"), ("B is better than A", "second"), ("I say B.", "second")),
        *(("A good answer is B.", "unread"), ("Both A and B are fine: C", "unread"), ("A and B are equal", "unread")),
        *(
            ("<think>Let me compare A", "unread"),
            ("<think>A? B?</think>\n\nB", "second"),
            ("The answer is A.", "first"),
        ),
    ],
)
def test_a_reply_is_the_letter_that_it_begins_with_or_its_only_one(reply: str, verdict: str) -> None:
    assert read_reply(reply) == verdict


def test_how_an_endpoint_is_reached_asks_nothing_again(serve: Any) -> None:
    stub = serve(longer)
    compare(endpoint(stub), PAIRS, RESAMPLING)
    patient = endpoint(stub).model_copy(update={"time_limit": 300.0, "parallel": 1})
    assert compare(patient, PAIRS, RESAMPLING).cost.calls == 0


def test_replies_that_say_nothing_are_ties_until_they_are_too_many(serve: Any) -> None:
    few = serve(lambda question: "well" if answers(question)[0] == "a" * 2 else longer(question))
    found = compare(endpoint(few), PAIRS, RESAMPLING)
    assert (found.unread, found.losses) == (1, 3)
    with pytest.raises(ModelError, match="says neither A, B nor C in 20 of 20 calls"):
        compare(endpoint(serve(lambda _: "both are lovely")), PAIRS, RESAMPLING)


@pytest.mark.parametrize(
    ("say", "error", "message"),
    [
        (lambda _: (500, b"busy"), TransientError, "answers 500 Internal Server Error: busy, 1 times"),
        (lambda _: (401, f"no key {KEY} here".encode()), RecipeError, r"answers 401 Unauthorized: no key \*\*\* here"),
        (lambda _: (200, b"<html>"), RecipeError, "its reply is no chat completion"),
        (lambda _: (200, b'{"choices": []}'), RecipeError, "its reply is no chat completion"),
        (lambda _: (200, b'{"choices": [{"message": {"content": 3}}]}'), RecipeError, "no chat completion"),
        (lambda _: (302, b""), RecipeError, "answers 302 Found"),
        (lambda _: time.sleep(3) or "A", TransientError, "does not answer"),
    ],
    ids=["busy", "refused", "html", "empty", "number", "elsewhere", "hangs"],
)
def test_an_endpoint_that_does_not_judge_is_one_line_without_the_key(
    serve: Any, monkeypatch: pytest.MonkeyPatch, say: Any, error: type[ReglageError], message: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    stub = serve(say)
    with pytest.raises(error, match=message) as refusal:
        row_scores(endpoint(stub, key_env="JUDGE_KEY", time_limit=0.3, parallel=1), PAIRS[:1])
    assert stub.keys[0] == f"Bearer {KEY}"
    assert KEY not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert refusal.value.__cause__ is None or KEY not in str(refusal.value.__cause__)


def test_an_endpoint_that_is_busy_once_is_asked_again(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ftlib.evaluation.judges.endpoint.time.sleep", lambda _: None)
    replies = iter([(429, b"slow down"), "A", "B"])
    scores, both, cost = row_scores(endpoint(serve(lambda _: next(replies)), attempts=2, parallel=1), PAIRS[:1])
    assert (scores, both, cost.calls) == ([1.0], [("first", "first")], 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"url": "ftp://example.org"}, "begins with http"),
        ({"url": "https://me:secret@example.org/v1"}, "name the variable of the environment"),
        ({"url": "https://example.org/v1?api_key=secret"}, "name the variable of the environment"),
        ({"key_env": "sk-abc"}, "should match pattern"),
    ],
    ids=str,
)
def test_a_judge_with_a_secret_in_it_is_refused(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        JUDGES.validate_python({"kind": "endpoint", "url": "http://127.0.0.1:9/v1", "model": "m", **fields})


def test_a_key_that_is_missing_or_would_travel_in_plain_text_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = {"kind": "endpoint", "url": "http://example.org/v1", "model": "m", "key_env": "JUDGE_KEY"}
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(RecipeError, match="environment has no JUDGE_KEY"):
        JUDGES.validate_python(judge).verdicts(PAIRS[:1])
    monkeypatch.setenv("JUDGE_KEY", KEY)
    with pytest.raises(RecipeError, match="use https"):
        JUDGES.validate_python(judge).verdicts(PAIRS[:1])


def test_a_checker_judges_without_an_order() -> None:
    judge = JUDGES.validate_python({"kind": "reward", "reward": {"kind": "length", "most": 4}, "tie_within": 0.1})
    found = compare(judge, PAIRS, RESAMPLING)  # 5 characters are worth 0.75; of 2 to 4, 1
    assert (found.wins, found.ties, found.losses) == (3, 1, 6)
    assert found.cost.calls == 0


def test_a_model_in_the_process_is_asked_by_its_chat_template(tmp_path: Path) -> None:
    """A tiny model of random weights says what it will: what is held is that it is asked, counted and bounded."""
    folder = tiny_chat_lm(tmp_path / "judge")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 1024}))
    judge = JUDGES.validate_python({"kind": "model", "model": {"path": str(folder)}, "max_new_tokens": 4})
    verdicts, cost = judge.verdicts([Pair("the invoice", "please ask", "a card")])
    assert len(verdicts) == 1
    assert cost.calls == 1
    assert cost.tokens_in > 20
    assert 0 <= cost.tokens_out <= 4
    with pytest.raises(ModelError, match="its longest question and reply have"):
        judge.verdicts([Pair("the invoice " * 5000, "please ask", "a card")])
    assert str(folder) in judge.identity()
