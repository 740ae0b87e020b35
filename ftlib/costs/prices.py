"""Prices from a settings file, what a run used, and what that costs by them.

    currency: EUR
    cpu_core_hour: 0.04
    gpu_hour: {NVIDIA H100 80GB HBM3: 2.50}
    storage_gb_month: 0.02
    thousand_requests: 0.005

A price that is not given counts nothing, and the cost says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import Field, StringConstraints, ValidationError

from ftlib.config import Config, user_path
from ftlib.errors import RecipeError
from ftlib.yaml_text import read_value

VARIABLE = "REGLAGE_PRICES"
"""Names the settings file where no `--prices` does, or holds what would be in it: `{"currency": "EUR", ...}`."""

Price = Annotated[float, Field(ge=0.0)]


class Usage(Config):
    """What a run used itself; what an earlier run had made is not in it."""

    core_hours: float = 0.0
    gpu_hours: dict[str, float] = {}
    """By the card's name."""
    stored_bytes: int = 0
    """Of what its stages made in the work place."""
    requests: int = 0
    """To buckets, by the process of the flow."""

    def plus(self, other: Usage) -> Usage:
        """Return what both are together."""
        cards = dict.fromkeys([*self.gpu_hours, *other.gpu_hours])
        return Usage(
            core_hours=self.core_hours + other.core_hours,
            gpu_hours={card: self.gpu_hours.get(card, 0.0) + other.gpu_hours.get(card, 0.0) for card in cards},
            stored_bytes=self.stored_bytes + other.stored_bytes,
            requests=self.requests + other.requests,
        )


class Cost(Config):
    """What a usage costs, in parts."""

    currency: str
    cpu: float = 0.0
    gpu: float = 0.0
    requests: float = 0.0
    """To buckets."""
    storage_month: float = 0.0
    """To keep what it made for a month; it is no part of the total, since nobody knows how long it is kept."""
    unpriced: tuple[str, ...] = ()
    """What was used and has no price."""

    @property
    def total(self) -> float:
        """Return what the run itself cost."""
        return self.cpu + self.gpu + self.requests

    def line(self) -> str:
        """Say it in a line: `1.24 EUR (CPU 0.04, GPU 1.20); 0.01 EUR a month to keep what it made`."""
        requests = f", requests {money(self.requests)}" if self.requests else ""
        line = f"{money(self.total)} {self.currency} (CPU {money(self.cpu)}, GPU {money(self.gpu)}{requests})"
        if self.storage_month:
            line += f"; {money(self.storage_month)} {self.currency} a month to keep what it made"
        return f"{line}; without a price, so not counted: {', '.join(self.unpriced)}" if self.unpriced else line


class Prices(Config):
    """What things cost, in one currency."""

    currency: Annotated[str, StringConstraints(min_length=1, max_length=16)]
    """How sums are written; any word, nothing is converted."""
    cpu_core_hour: Price | None = None
    gpu_hour: dict[str, Price] = {}
    """By the name that the driver says: `nvidia-smi --query-gpu=name --format=csv`."""
    storage_gb_month: Price | None = None
    thousand_requests: Price | None = None
    """To buckets, of whatever kind: reading costs less than writing, so the dearer price gives the most."""

    def of(self, usage: Usage) -> Cost:
        """Return what a usage costs."""
        unpriced = [name for name in usage.gpu_hours if name not in self.gpu_hour]
        if usage.core_hours and self.cpu_core_hour is None:
            unpriced.append("CPU cores")
        if usage.stored_bytes and self.storage_gb_month is None:
            unpriced.append("storage")
        if usage.requests and self.thousand_requests is None:
            unpriced.append("requests")
        return Cost(
            currency=self.currency,
            cpu=usage.core_hours * (self.cpu_core_hour or 0.0),
            gpu=sum(hours * self.gpu_hour.get(name, 0.0) for name, hours in usage.gpu_hours.items()),
            requests=usage.requests / 1000 * (self.thousand_requests or 0.0),
            storage_month=usage.stored_bytes / 1e9 * (self.storage_gb_month or 0.0),
            unpriced=tuple(unpriced),
        )


def money(sum_: float) -> str:
    """Write a sum with two decimals, and a small one with two digits that count."""
    return f"{sum_:,.2f}" if sum_ >= 0.1 or sum_ == 0 else f"{sum_:.2g}"


def read_prices(path: str | Path | None = None) -> Prices | None:
    """Read the settings file that is named, or what the variable names or holds; None where neither is.

    Raises RecipeError for a file that is absent, is no YAML or holds other fields.
    """
    given = os.environ.get(VARIABLE, "").strip()
    if path is None and given.startswith("{"):
        return _parsed(given, VARIABLE)
    named = path or given
    if not named:
        return None
    file = user_path(named)
    try:
        return _parsed(file.read_text(encoding="utf-8"), str(file))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"prices: {file} cannot be read ({type(error).__name__}); see docs/cost.md") from error


def _parsed(text: str, whose: str) -> Prices:
    try:
        fields: object = read_value(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"prices: {whose} is no YAML; see docs/cost.md") from error
    if not isinstance(fields, Mapping):
        raise RecipeError(f"prices: {whose} holds no fields; give currency and what has a price, see docs/cost.md")
    try:
        return Prices.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RecipeError(
            f"prices: {whose}: {where}: {first['msg']}, got {first['input']!r}; see docs/cost.md"
        ) from error
