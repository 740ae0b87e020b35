"""The base of every value a user writes or a stage hands over: frozen, and closed to unknown fields."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

BatchKind = Literal["labeled", "tagged", "tokens", "completions"]
"""The one word that says what fits what: a format *yields* a kind, an objective *needs* one, a metric *reads* some."""

LABELED: frozenset[BatchKind] = frozenset({"labeled", "tagged"})
"""Kinds whose targets are of a closed set of labels, which training finds and evaluation keeps to."""

LANGUAGE: frozenset[BatchKind] = frozenset({"tokens", "completions"})
"""Kinds that a causal language model answers: it predicts the last `supervised` tokens of a row, one by one."""

Target = str | int | float | tuple[str | None, ...] | None
"""What a row is taught, as its format lays it out: a label, a number, labels, a tag for every token."""

Split = Literal["train", "validation", "test"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Names become folder names, object keys and Prefect artifact keys, so the narrowest of their rules holds."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Config(BaseModel):
    """A frozen value: a typo is an error that names its path, and no stage can change what another one reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())
