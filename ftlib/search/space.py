"""What a field may be: a range of numbers, or a list of values."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator
from typing_extensions import override

from ftlib.config import Config
from ftlib.yaml_text import read_value

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

DIGITS = 4
"""Significant digits of a proposed number: it is copied into commands, and more decide nothing."""
_INNER = 0.382
"""Where the value lies that the recipe is held against beside the ends: a field of whole numbers takes no such one."""
_LISTED = 6
"""Values that are named one by one."""
Point = float | int
"""A value as the sampler knows it: a number, or the place of a value in its list."""


class DomainBase(Config, ABC):
    """Values of one field."""

    @abstractmethod
    def value(self, point: Point) -> JsonValue:
        """Return the value that a point stands for."""

    @abstractmethod
    def point(self, value: object) -> Point | None:
        """Return the point that stands for a value; None for one that lies outside."""

    @abstractmethod
    def corners(self) -> tuple[JsonValue, ...]:
        """Return the values that the recipe is held against at first: both ends and one between, or all."""

    @abstractmethod
    def every(self) -> Sequence[Point] | None:
        """Return all points, in order; None where there are as many as there are numbers."""

    def rounded(self, point: Point) -> Point:
        """Return the point that is tried where a sampler proposes one."""
        return point

    @abstractmethod
    def distribution(self) -> BaseDistribution:
        """Return it as optuna takes it."""

    @property
    def on_log_scale(self) -> bool:
        """Say whether factors count, not differences."""
        return False

    def words(self) -> str:
        """Return what it holds, for people."""
        every = self.every()
        if every is not None and len(every) <= _LISTED:
            return ", ".join(written(self.value(point)) for point in every)
        corners = self.corners()
        return f"{written(corners[0])} to {written(corners[-1])}{', by orders of magnitude' * self.on_log_scale}"


class _Range(DomainBase, ABC):
    low: float
    """The least value."""
    high: float
    """The largest value."""

    @model_validator(mode="after")
    def _is_a_range(self) -> _Range:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must lie below high {self.high:g}: there is nothing to choose from")
        return self

    @override
    def value(self, point: Point) -> JsonValue:
        return float(point)

    @override
    def rounded(self, point: Point) -> Point:
        return min(self.high, max(self.low, float(f"{point:.{DIGITS}g}")))

    @override
    def point(self, value: object) -> Point | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return float(value) if self.low <= value <= self.high else None

    @override
    def corners(self) -> tuple[JsonValue, ...]:
        inner = float(f"{self.low + _INNER * (self.high - self.low):.{DIGITS}g}")
        return (self.low, inner, self.high)

    @override
    def every(self) -> Sequence[Point] | None:
        return None


class Uniform(_Range):
    """Numbers from `low` to `high`, each as likely."""

    kind: Literal["uniform"] = "uniform"
    step: float | None = Field(default=None, gt=0.0)
    """Only `low`, `low + step` and so on; null: any number."""

    most: ClassVar[int] = 1_000_000
    """How many values a step may make."""

    @model_validator(mode="after")
    def _has_steps(self) -> Uniform:
        if self.step is not None and (self.high - self.low) / self.step >= self.most:
            raise ValueError(f"step: {self.step:g} makes over {self.most:,} values; leave it out for any number")
        return self

    @override
    def rounded(self, point: Point) -> Point:
        if self.step is None:
            return super().rounded(point)
        return float(f"{self.low + round((point - self.low) / self.step) * self.step:.12g}")

    @override
    def corners(self) -> tuple[JsonValue, ...]:
        points = self.every()
        return (self.low, self.value(points[-1])) if points else super().corners()

    @override
    def every(self) -> Sequence[Point] | None:
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-9)
        return tuple(float(f"{self.low + i * self.step:.12g}") for i in range(count + 1))

    @override
    def point(self, value: object) -> Point | None:
        point = super().point(value)
        return point if point is None or self.step is None or self.rounded(point) == point else None

    @override
    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        points = self.every()
        return FloatDistribution(self.low, points[-1] if points else self.high, step=self.step)


class LogUniform(_Range):
    """Numbers from `low` to `high`, each order of magnitude as likely: learning rates, weight decays."""

    kind: Literal["log_uniform"] = "log_uniform"
    low: float = Field(gt=0.0)
    """The least value, above 0."""

    @property
    @override
    def on_log_scale(self) -> bool:
        return True

    @override
    def distribution(self) -> BaseDistribution:
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=True)


class Integer(DomainBase):
    """Whole numbers from `low` to `high`, both included."""

    kind: Literal["integer"] = "integer"
    low: int
    """The least value."""
    high: int
    """The largest value."""
    step: int = Field(default=1, gt=0)
    """Only `low`, `low + step` and so on."""
    log: bool = False
    """Each order of magnitude is as likely; only with a step of 1."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Integer:
        if self.low >= self.high:
            raise ValueError(f"low {self.low} must lie below high {self.high}: there is nothing to choose from")
        if self.log and (self.low < 1 or self.step != 1):
            raise ValueError(f"log: needs low from 1 on and a step of 1, got low {self.low} and step {self.step}")
        return self

    @property
    @override
    def on_log_scale(self) -> bool:
        return self.log

    @override
    def value(self, point: Point) -> JsonValue:
        return round(point)

    @override
    def point(self, value: object) -> Point | None:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != round(value):
            return None
        return round(value) if round(value) in range(self.low, self.high + 1, self.step) else None

    @override
    def corners(self) -> tuple[JsonValue, ...]:
        return (self.low, range(self.low, self.high + 1, self.step)[-1])

    @override
    def every(self) -> Sequence[Point] | None:
        return range(self.low, self.high + 1, self.step)

    @override
    def rounded(self, point: Point) -> Point:
        return round(point)

    @override
    def distribution(self) -> BaseDistribution:
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, range(self.low, self.high + 1, self.step)[-1], step=self.step, log=self.log)


class Choice(DomainBase):
    """One of some values, without an order: kinds, whole groups of fields."""

    kind: Literal["choice"] = "choice"
    values: tuple[JsonValue, ...]
    """At least two."""

    least: ClassVar[int] = 2

    @model_validator(mode="after")
    def _is_a_choice(self) -> Choice:
        if len(self.values) < self.least:
            raise ValueError(f"values: at least {self.least} to choose from, got {len(self.values)}")
        written = [_as_json(value) for value in self.values]
        if twice := sorted({one for one in written if written.count(one) > 1}):
            raise ValueError(f"values: {', '.join(twice)} is there twice; take one out")
        return self

    @override
    def value(self, point: Point) -> JsonValue:
        return self.values[int(point)]

    @override
    def point(self, value: object) -> Point | None:
        written = [_as_json(one) for one in self.values]  # Python takes 1 and true for one value
        return written.index(_as_json(value)) if _as_json(value) in written else None

    @override
    def corners(self) -> tuple[JsonValue, ...]:
        return self.values

    @override
    def every(self) -> Sequence[Point] | None:
        return range(len(self.values))

    @override
    def distribution(self) -> BaseDistribution:
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(range(len(self.values)))


Domain = Annotated[Uniform | LogUniform | Integer | Choice, Field(discriminator="kind")]


def _as_json(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def written(value: JsonValue) -> str:
    """Write a value as an override holds it: a plain word where YAML reads it as text, else JSON."""
    plain = isinstance(value, str) and value.isidentifier() and read_value(value) == value  # `true` is no text
    return str(value) if plain else "".join(map(_escaped, json.dumps(value, ensure_ascii=False)))


def _escaped(character: str) -> str:
    """Escape what YAML refuses or folds in quotes; JSON's own escapes make two of a character beyond U+FFFF."""
    return character if "\n" <= character < "\x7f" or character > "\uffff" else f"\\u{ord(character):04x}"


def override_of(path: str, value: JsonValue) -> str:
    """Return `path=value`, as `--set` takes it."""
    return f"{path}={written(value)}"
