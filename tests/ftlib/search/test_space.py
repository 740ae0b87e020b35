"""Ranges and lists of values, and their short forms on the command line."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from ftlib.errors import RecipeError
from ftlib.search.search import Halving, Search
from ftlib.search.space import Choice, Domain, Integer, LogUniform, Uniform, override_of
from ftlib.search.tries import read_tries
from ftlib.yaml_text import read_value


@pytest.mark.parametrize(
    ("words", "domain"),
    [
        ("1e-5..1e-3 log", LogUniform(low=1e-5, high=1e-3)),
        ("0..1.5", Uniform(low=0, high=1.5)),
        ("0..1 step 0.25", Uniform(low=0, high=1, step=0.25)),
        ("4..64", Integer(low=4, high=64)),
        ("4..64 step 4", Integer(low=4, high=64, step=4)),
        ("1..64 log", Integer(low=1, high=64, log=True)),
        ("-3 .. 3", Integer(low=-3, high=3)),
        ("[adamw, lion]", Choice(values=("adamw", "lion"))),
        ("[1e-4, 2]", Choice(values=(1e-4, 2))),
        ("['1e-4', 010, 12:30, off, true]", Choice(values=("1e-4", 10, "12:30", "off", True))),  # as in a recipe
        ("[{kind: full}, {kind: lora, rank: 4}]", Choice(values=({"kind": "full"}, {"kind": "lora", "rank": 4}))),
    ],
)
def test_a_short_form_is_read(words: str, domain: Any) -> None:
    assert read_tries([f"a.b={words}"]) == {"a.b": domain}


@pytest.mark.parametrize(
    "words",
    [
        *("a.b", "a.b=", "=1..2", "a.b=1", "a.b=x..y", "a.b=[", "a.b={x: 1}", "a.b=1..1", "a.b=3..1", "a.b=[1]"),
        *("a.b=[1, 1]", "a.b=0..1.0 log", "a.b=0..8 log", "a.b=1.0..2 log step 1", "a.b=1..2 step 0"),
    ],
)
def test_what_is_none_is_one_line(words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        read_tries([words])
    assert "\n" not in str(caught.value)
    assert "a.b" in str(caught.value) or "=1..2" in str(caught.value)


def test_a_field_is_given_once() -> None:
    with pytest.raises(RecipeError, match="twice"):
        read_tries(["a=1..2", "a=2..3"])


@given(st.floats(1e-8, 1e3), st.floats(1.001, 1e6), st.floats(0, 1))
def test_every_value_lies_in_its_range_has_few_digits_and_is_a_point_again(
    low: float, factor: float, at: float
) -> None:
    domain = LogUniform(low=low, high=low * factor)
    value = domain.value(domain.rounded(low * factor**at))
    assert domain.low <= value <= domain.high
    assert value in (domain.low, domain.high) or float(f"{value:.4g}") == value
    assert domain.point(value) == value
    assert float(override_of("p", value).partition("=")[2]) == value


@given(st.integers(-50, 50), st.integers(1, 100), st.integers(1, 9))
def test_whole_numbers_are_those_of_a_range(low: int, width: int, step: int) -> None:
    domain = Integer(low=low, high=low + width, step=step)
    assert domain.every() == range(low, low + width + 1, step)
    assert domain.corners() == (domain.every()[0], domain.every()[-1])
    assert all(domain.point(value) is not None for value in domain.every())
    assert domain.point(low + 0.5) is None
    assert domain.point(True) is None


def test_steps_are_no_sums_of_rounding_errors() -> None:
    domain = Uniform(low=0.1, high=0.7, step=0.1)
    assert domain.every() == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
    assert domain.rounded(0.30000000000000004) == 0.3


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "uniform", "low": 1, "high": 1},
        {"kind": "uniform", "low": float("nan"), "high": 1},
        {"kind": "log_uniform", "low": 0, "high": 1},
        {"kind": "integer", "low": 1.5, "high": 3},
        {"kind": "choice", "values": []},
        {"kind": "normal", "low": 1, "high": 2},
        {"kind": "uniform", "low": 0, "high": 1, "log": True},
    ],
)
def test_what_leaves_nothing_to_choose_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Domain).validate_python(fields)


def test_a_grid_of_any_number_between_two_is_refused() -> None:
    with pytest.raises(ValidationError, match="give it a step"):
        Search(space={"a": Uniform(low=0, high=1)}, sampler="grid")


def test_rungs_lie_before_the_end() -> None:
    assert Halving(factor=2, first=0.25).rungs == (0.25, 0.5)
    assert Halving(factor=3, first=0.9).rungs == (0.9,)


def test_a_search_is_no_part_of_any_identity() -> None:
    assert Search(trials=3).digest() == Search().digest() == ""


@given(
    st.text(max_size=8) | st.sampled_from(["true", "null", "off", "010", "1e-4", "~"]) | st.integers() | st.booleans()
)
def test_an_override_is_read_as_the_value_it_was_written_for(value: Any) -> None:
    assert read_value(override_of("p", value).partition("=")[2]) == value


def test_values_that_python_takes_for_one_are_two() -> None:
    domain = Choice(values=(1, True, 0, False))
    assert [domain.point(domain.value(point)) for point in range(4)] == [0, 1, 2, 3]


def test_a_range_of_billions_is_told_at_once() -> None:
    assert Integer(low=0, high=2**40).words() == f"0 to {2**40}"
    with pytest.raises(ValidationError, match="over 1,000,000 values"):
        Uniform(low=0, high=1, step=1e-9)
