"""A field that came later re-runs nothing while it asks for what was done before it came."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field

from ftlib.config import Config
from ftlib.fingerprint import Job, digest, identify


def jobs(**later: object) -> type[Job]:
    """Make the class of a toy job, as it is before (`later` empty) or after a field came."""
    body = {
        "__module__": __name__,
        "__annotations__": {"seed": int, **{name: int for name in later}},
        "stage": "toy",
        "version": 1,
        "introduced": later,
        **later,
    }
    return type("ToyJob", (Job,), body)


def test_a_new_field_changes_no_fingerprint_until_it_says_something():
    before, after = jobs()(seed=1), jobs(burn_in=0)
    assert after(seed=1).fingerprint == before.fingerprint
    assert after(seed=1, burn_in=0).fingerprint == before.fingerprint
    assert after(seed=1, burn_in=2).fingerprint != before.fingerprint
    assert after(seed=2).fingerprint != before.fingerprint


class Pace(Config):
    steps: int = 3


class Drift(Pace):
    introduced = {"slope": 0.0, "parts": (), "way": None}
    slope: float = Field(default=1.0, ge=0.0)  # since a later release; what it was introduced with is still 0
    parts: tuple[Pace, ...] = ()
    way: Literal["up", "down"] | None = None


class Wind(Drift):
    introduced = {"gust": False}
    gust: bool = False


def test_it_is_the_neutral_value_that_is_left_out_never_the_default():
    assert identify(Drift()) == {"steps": 3, "slope": 1.0}
    assert identify(Drift(slope=0.0)) == identify(Pace())
    assert identify(Drift(slope=0)) == identify(Pace())


def test_what_is_introduced_is_inherited_and_counts_at_any_depth():
    assert identify(Wind(slope=0.0)) == identify(Pace())
    assert identify({"a": [Wind(gust=True, slope=0.0)]}) == {"a": [{"steps": 3, "gust": True}]}
    assert identify(Drift(parts=(Pace(),))) == {"steps": 3, "slope": 1.0, "parts": [{"steps": 3}]}
    assert dict(Pace.introduced) == {}
    assert digest(identify(Wind())) != digest(identify(Pace()))


@pytest.mark.parametrize(
    ("name", "neutral", "words"),
    [
        ("spead", 0, "'spead' is no field; there are 'speed', 'way'"),
        ("speed", "0", "'speed' never holds '0'"),
        ("speed", -1, "'speed' never holds -1"),
        ("speed", None, "'speed' never holds None"),
        ("way", "left", "'way' never holds 'left'"),
    ],
)
def test_a_typo_is_an_error_where_the_class_is_made(name: str, neutral: object, words: str):
    with pytest.raises(TypeError, match=words):

        class Toy(Config):
            introduced = {name: neutral}
            speed: int = Field(default=0, ge=0)
            way: Literal["up", "down"] = "up"
