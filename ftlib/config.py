"""The base of every value a user writes or a stage hands over: frozen, and closed to unknown fields."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from ftlib.errors import RecipeError

BatchKind = Literal["labeled", "multi_labeled", "scored", "tagged", "spans", "tokens", "completions"]
"""The one word that says what fits what: a format *yields* a kind, an objective *needs* one, a metric *reads* some.

What differs from kind to kind stands in `ftlib.kinds.kind`."""

SpecialTokens = Literal["split", "keep"]
"""How a user's text that spells one of the tokenizer's special tokens is read: as characters, or as that token."""


Split = Literal["train", "validation", "test"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Names become folder names, object keys and Prefect artifact keys, so the narrowest of their rules holds."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Config(BaseModel):
    """A frozen value: a typo is an error that names its path, and no stage can change what another one reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


def user_path(path: str | Path) -> Path:
    """Return a path that a user wrote; `~` is their home, and that of a user who is not there a folder's name.

    Raises RecipeError where there is no home: a folder named `~` is what nobody meant.
    """
    found = os.path.expanduser(path)  # Path.expanduser raises for an unknown user
    if found == "~" or found.startswith("~/"):
        raise RecipeError(f"{path}: no home folder is known here; write the whole path or set HOME")
    return Path(found)


SELECTION: Split = "validation"


REPORT: Split = "test"
