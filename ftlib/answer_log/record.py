"""One live answer, and what becomes known of it later: the two records that `serve` writes and `monitor` reads.

A log is a folder of numbered files, JSON lines or parquet, with one record a line. A file is whole or not there, so
that a reader never meets half a line of a server that was killed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from ftlib.config import Config, Fraction, Name

Traffic = Literal["answered", "shadow"]
"""`answered`: the user has seen it. `shadow`: it was made beside, to be compared."""


class LiveAnswer(Config):
    """What one version answered to one request."""

    request: str = Field(min_length=1, max_length=200)
    """The request's id, by which what comes later is joined; a caller gives it, or the server draws one."""
    at: str
    """When it was answered: UTC, ISO 8601."""
    name: Name
    """The model."""
    version: int = Field(ge=1)
    """Which of its versions answered."""
    manifest: str = ""
    """The sha256 of the version's manifest; empty where another server wrote the log."""
    traffic: Traffic = "answered"
    input: str | list[JsonValue] | None = None
    """What was asked, of a chat its turns so far; None where the log keeps no inputs."""
    measures: dict[str, int] = {}
    """What is measured of the input, named as in a row's profile: `length` in characters; `tokens`, special ones left
    out, and of these those that the vocabulary does not know: `unknown`; of images size, brightness and colour."""
    label: str | None = None
    """The answer, where it is one label; else None."""
    probability: Fraction | None = None
    """Of that label, or what the model says of its own answer; None where it says nothing."""
    answer: JsonValue = None
    """The whole answer, as `reglage predict --json` prints it."""
    seconds: float = Field(default=0.0, ge=0.0)
    """From the request's arrival to its answer."""


class LateLabel(Config):
    """What somebody found out about an answer afterwards."""

    request: str = Field(min_length=1, max_length=200)
    at: str
    """When it was said: UTC, ISO 8601. Of several for a request the newest counts."""
    label: str | None = None
    """What would have been right."""
    thumb: bool | None = None
    """Whether the answer was found good."""
    correction: str | None = None
    """What should have been written, where the answer is a text."""
