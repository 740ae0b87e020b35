"""What answers are worth: checkers against values by hand, and one line for a reward that gives no numbers."""

from __future__ import annotations

import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from ftlib.errors import DataError, RecipeError
from ftlib.training.rewards import Reward, process
from ftlib.training.rewards.base import Answered, RewardBase, checked
from ftlib.training.rewards.grading import graded

REWARDS: TypeAdapter[RewardBase] = TypeAdapter(Reward)

FUNCTIONS = """
import os, socket, sys, time

def odd(answered):
    answer = answered[0].answer
    print("a line that is no reply")
    if answer == "raises":
        raise KeyError("polite")
    if answer == "hangs":
        signal = __import__("signal")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    if answer == "exits":
        os._exit(3)
    if answer.startswith("asks"):
        with socket.create_connection(("127.0.0.1", int(answer.split()[1]))) as service:
            return [float(service.recv(9))]
    if answer == "folder":
        return [float("" in sys.path)]
    given = {"nan": [float("nan")], "none": None, "a none": [None], "short": [], "text": ["1"], "string": "1"}
    return given.get(answer, [len(one.answer) + (one.reference or "").count("x") for one in answered])
"""


def reward(kind: str, **fields: Any) -> RewardBase:
    return REWARDS.validate_python({"kind": kind, **fields})


@pytest.mark.parametrize(
    ("value", "worth"),
    [
        (reward("exact_match"), [1, 0, 0, 0]),
        (reward("exact_match", loosely=True), [1, 1, 0, 0]),
        (reward("regex", pattern=r"\d+", time_limit=60), [0, 0, 1, 0]),
        (reward("regex", pattern=r"the paris\.", whole=True, time_limit=60), [0, 0, 0, 0]),
        (reward("length", least=4, most=5), [1, 2 - 10 / 5, 2 - 8 / 5, 0 / 4]),
        (reward("length", most=1, unit="words"), [1, 0, 0, 1]),
        (
            reward(
                "weighted_sum",
                parts=[
                    {"weight": 2, "reward": {"kind": "exact_match"}},
                    {"weight": -1, "reward": {"kind": "length", "most": 5}},
                ],
            ),
            [2 - 1, 0 - 0, 0 - (2 - 8 / 5), 0 - 1],
        ),
    ],
    ids=lambda value: value.called if isinstance(value, RewardBase) else "",
)
def test_a_checker_gives_what_it_says(value: RewardBase, worth: list[float]) -> None:
    answers = ["Paris", "The paris.", '{"a": 1}', ""]
    assert graded(value, [Answered("?", answer, "Paris") for answer in answers], {}) == pytest.approx(worth)


def test_json_is_valid_against_a_schema() -> None:
    schema = {
        "$defs": {"n": {"type": "integer"}},
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/n"}},
        "required": ["a"],
    }
    answers = ['{"a": 1}', '{"a": "1"}', '{"b": 1}', "no json", '{"a": NaN}', "[" * 10_000]
    value = reward("json_schema", valid_against=schema, time_limit=60)
    assert graded(value, [Answered("?", answer) for answer in answers], {}) == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "json_schema", "valid_against": {"$ref": "https://example.org/a.json"}}, "nothing is fetched"),
        ({"kind": "json_schema", "valid_against": {"type": "thing"}}, "no JSON schema"),
        ({"kind": "regex", "pattern": "("}, "no regular expression"),
        ({"kind": "length", "least": 3, "most": 2}, "least is 3 and most 2"),
        ({"kind": "python", "function": "lambda: 1"}, "should match pattern"),
        ({"kind": "weighted_sum", "parts": []}, "at least 1 item"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_reward_that_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        REWARDS.validate_python(fields)


def test_exact_match_needs_the_rows_own_answer() -> None:
    with pytest.raises(DataError, match="no answer of its own"):
        graded(reward("exact_match"), [Answered("Capital?", "Paris")], {})


@pytest.fixture
def function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "house_rewards.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "house_rewards:odd"


def test_a_function_of_a_package_is_asked_in_a_process_of_its_own(function: str) -> None:
    value = reward("python", function=function, time_limit=60)
    answered = [Answered("?", "abc", "xx"), Answered("?", "é\u2028\n"), Answered("?", "")]
    assert graded(value, answered, {}) == [5, 3, 0]
    running = process._RUNNING[value.model_dump_json()]
    assert running._process.pid != os.getpid()
    assert graded(value, [Answered("?", "folder")], {}) == [0]  # what lies in the current folder is not installed
    assert process._RUNNING[value.model_dump_json()] is running
    assert graded(value, [], {}) == []
    process.end_all()
    assert not running.lives()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("raises", "raised KeyError: KeyError\\('polite'\\)"),
        ("nan", "returned nan for answer 0 of 1; each needs a finite number"),
        ("none", "returned None, where a list of 1 numbers is needed"),
        ("a none", "returned None for answer 0"),
        ("short", "returned 0 numbers for 1 answers"),
        ("text", "returned '1' for answer 0"),
        ("string", "where a list of 1 numbers is needed"),
        ("exits", "ended its process with 3"),
    ],
)
def test_a_function_that_gives_no_numbers_is_one_line(function: str, answer: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as refusal:
        graded(reward("python", function=function, time_limit=60), [Answered("?", answer)], {})
    assert str(refusal.value).startswith(f"reward python {function}: it ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["python", "regex"])
def test_what_runs_for_ever_is_ended_by_its_time_limit(function: str, kind: str) -> None:
    fields = {"function": function} if kind == "python" else {"pattern": "(a+)+$"}
    answer = "hangs" if kind == "python" else "a" * 80 + "b"
    value = reward(kind, time_limit=0.3, **fields)
    with pytest.raises(RecipeError, match=r"time limit of 0\.3 s"):
        graded(value, [Answered("?", answer)], {})
    assert value.model_dump_json() not in process._RUNNING


def test_a_function_that_asks_a_service_ends_the_run_where_that_is_gone_or_silent(function: str) -> None:
    """Nothing keeps a package's function from the network; where the service answers, its number counts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked = [Answered("?", f"asks {server.getsockname()[1]}")]
        with pytest.raises(RecipeError, match=rf"^reward python {function}: [^\n]*time limit of 0\.3 s[^\n]*$"):
            graded(reward("python", function=function, time_limit=0.3), asked, {})
        server.setblocking(False)
        with suppress(BlockingIOError):
            server.accept()[0].close()  # of the call that was given up
        server.setblocking(True)
        value = reward("python", function=function, time_limit=60)
        with ThreadPoolExecutor(1) as service:
            service.submit(_answer, server)
            assert graded(value, asked, {}) == [0.25]
    with pytest.raises(RecipeError, match=rf"^reward python {function}: it raised ConnectionRefusedError[^\n]*$"):
        graded(value, asked, {})


def _answer(server: socket.socket) -> None:
    with server.accept()[0] as asked:
        asked.sendall(b"0.25")


def test_a_part_of_a_sum_is_named(function: str) -> None:
    parts = [{"reward": {"kind": "length", "most": 3}}, {"reward": {"kind": "python", "function": function}}]
    with pytest.raises(RecipeError, match=f"reward python {function}: it returned nan"):
        graded(reward("weighted_sum", parts=parts), [Answered("?", "nan")], {})


def test_a_function_that_is_not_installed_is_one_line() -> None:
    value = reward("python", function="nowhere.at.all:polite")
    assert "No module named 'nowhere'" in value.misfits()[0]
    with pytest.raises(RecipeError, match="install the package that has it"):
        graded(value, [Answered("?", "a")], {})
    for function, said in {"math:pi": "pi is no function", "math:nothing": "has no attribute 'nothing'"}.items():
        (line,) = reward("python", function=function).misfits()
        assert said in line
        assert line.endswith("; correct the name or the module")


@pytest.mark.parametrize("grades", [None, {1: 2}, [1.0], [1.0, float("inf")], [1.0, "2"]], ids=str)
def test_numbers_are_checked_whatever_brought_them(grades: object) -> None:
    with pytest.raises(RecipeError, match="reward exact_match: it returned"):
        checked(reward("exact_match"), grades, 2)


def test_a_sum_asks_for_the_models_of_its_parts() -> None:
    class Judge:
        def scores(self, answered: Any) -> list[float]:
            return [float(len(one.answer)) for one in answered]

    parts = [{"reward": {"kind": "model"}}, {"weight": 0.5, "reward": {"kind": "model", "model": "kind"}}]
    value = reward("weighted_sum", parts=parts)
    assert value.companions == ("reward", "kind")
    models = {"reward": Judge(), "kind": Judge()}
    assert graded(value, [Answered("?", "abcd")], models) == [6]


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"type": "array", "items": {"$ref": "#"}}, "[" * 900 + "]" * 900),
        ({"multipleOf": 0.01}, "1e400"),
        ({"multipleOf": 0.01}, "9" * 401),
    ],
)
def test_json_that_no_validator_can_judge_is_worth_nothing(schema: dict[str, Any], answer: str) -> None:
    """A policy writes what it likes: one odd answer ends no run."""
    reward = REWARDS.validate_python({"kind": "json_schema", "valid_against": schema})
    assert reward.grade([Answered("", answer)], {}) == [0.0]
