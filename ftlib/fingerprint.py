"""The identity of a stage's output: what it was asked to do, never where or how fast it ran.

A `Job` is a stage's one typed input. Its fingerprint hashes the stage, the stage's VERSION, and every field that is
not listed in `runtime` and does not still hold the neutral value it was `introduced` with (`Config`). Artifacts inside
it count by their `content` digest, so a re-run upstream that gives the same bytes re-runs nothing downstream.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar, cast

from pydantic import BaseModel

from ftlib.config import Config

JSON = str | int | float | bool | None | list["JSON"] | dict[str, "JSON"]


class Identified(Config, ABC):
    """A value that stands for bytes elsewhere and counts by their digest."""

    @abstractmethod
    def digest(self) -> str:
        """Return what identifies the bytes this value stands for."""


class Job(Config):
    """A stage's one typed input.

    Subclasses set `stage` (its folder name) and `version` (raised when the code's meaning changes), and list in
    `runtime` the fields that change speed or place, not the result.
    """

    stage: ClassVar[str]
    version: ClassVar[int]
    runtime: ClassVar[frozenset[str]] = frozenset()

    @property
    def fingerprint(self) -> str:
        """16 hex digits; the name of the stage's output folder, of its Ray run and of its Prefect cache entry."""
        return digest({"stage": self.stage, "version": self.version, "job": _fields_of(self, self.runtime)})[:16]


def identify(value: object) -> JSON:
    """Turn a value into canonical JSON in which every artifact is replaced by its content digest."""
    if isinstance(value, Identified):
        return value.digest()
    if isinstance(value, BaseModel):
        return _fields_of(value)
    if isinstance(value, dict):
        items = cast("dict[str, object]", value)
        return {key: identify(items[key]) for key in sorted(items)}
    if isinstance(value, (list, tuple)):
        return [identify(item) for item in cast("tuple[object, ...]", value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(
        f"{type(value).__name__} has no canonical form: a set's order differs between processes; use a sorted tuple"
    )


def _fields_of(value: BaseModel, left_out: frozenset[str] = frozenset()) -> dict[str, JSON]:
    """Return every field that says something: one that holds the value it was introduced with says nothing new.

    A class that another package brings is another one with the package's next version, or with other bytes.
    """
    fields = {name: identify(getattr(value, name)) for name in type(value).model_fields if name not in left_out}
    if not isinstance(value, Config):
        return fields
    fields = {
        k: identity
        for k, identity in fields.items()
        if k not in (new := value.introduced) or identity != identify(new[k])
    }
    return fields | ({"@brought_by": identify(value.brought_by)} if value.brought_by else {})


def digest(value: JSON) -> str:
    """Return the sha256 of a value's canonical JSON (sorted keys, no spaces, UTF-8) as 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes as 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
