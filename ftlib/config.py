"""The base of every value a user writes or a stage hands over: frozen, and closed to unknown fields."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from ftlib.errors import RecipeError

BatchKind = Literal[
    "labeled",
    "multi_labeled",
    "scored",
    "tagged",
    "spans",
    "tokens",
    "completions",
    "chats",
    "text_to_text",
    "labeled_images",
    "masked",
    "retrieved",
    "preferences",
    "judged",
    "captioned_images",
    "compared",
    "boxed_images",
]
"""The one word that says what fits what: a format *yields* a kind, an objective *needs* one, a metric *reads* some.

What differs from kind to kind stands in `ftlib.kinds.kind`."""

SpecialTokens = Literal["split", "keep"]
"""How a user's text that spells one of the tokenizer's special tokens is read: as characters, or as that token."""


Split = Literal["train", "validation", "test"]

Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""Names become folder names, object keys and Prefect artifact keys, so the narrowest of their rules holds."""


def _compiles(pattern: str) -> str:
    """Refuse what is no regular expression. Raises ValueError."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


NamePattern = Annotated[str, AfterValidator(_compiles)]
"""A regular expression that is searched for in parameter names."""

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Origin(NamedTuple):
    """The package that brought a class from outside Réglage."""

    distribution: str
    version: str
    files: tuple[tuple[str, str], ...]
    """Modules of the package that the class and its bases are made in, with the sha256 of each one's file."""


class Config(BaseModel):
    """A frozen value: a typo is an error that names its path, and no stage can change what another one reads."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    introduced: ClassVar[Mapping[str, object]] = MappingProxyType({})
    """The fields that came after work was finished without them, each with its neutral value: the one that asks for
    what was done before there was the field. `identify` leaves a field out while it holds that value, so old work is
    found. It is no default: the default may change later, the neutral value never. A subclass has its bases' too."""

    brought_by: ClassVar[Origin | None] = None
    """Whose class it is, where it is not Réglage's own (`ftlib.extensions`); part of the identity of its values."""

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Join `introduced` with that of all bases. Raises TypeError for no field of the class, and no value of it."""
        super().__pydantic_init_subclass__(**kwargs)
        own = cls.__dict__.get("introduced", {})
        inherited: dict[str, object] = {}
        for base in reversed(cls.__mro__[1:]):
            inherited |= base.__dict__.get("introduced", {})
        for name, neutral in own.items():
            _check_neutral(cls, name, neutral)
        if own or inherited:
            cls.introduced = MappingProxyType(inherited | own)


def _check_neutral(model: type[Config], name: str, neutral: object) -> None:
    where = f"{model.__qualname__}.introduced: {name!r}"
    if name not in model.model_fields:
        raise TypeError(f"{where} is no field; there are {', '.join(map(repr, model.model_fields)) or 'none'}")
    if not model.__pydantic_complete__:
        raise TypeError(f"{where}: an annotation of the class names what is not imported when it is made; import it")
    holds = TypeAdapter[object](model.model_fields[name].rebuild_annotation())
    try:
        holds.validate_python(neutral, strict=True)
    except ValidationError as error:
        raise TypeError(f"{where} never holds {neutral!r}: {error.errors()[0]['msg']}") from error


def user_path(path: str | Path) -> Path:
    """Return a path that a user wrote; `~` is their home, and that of a user who is not there a folder's name.

    Raises RecipeError where there is no home: a folder named `~` is what nobody meant.
    """
    expanded = os.path.expanduser(path)  # Path.expanduser raises for an unknown user
    if expanded == "~" or expanded.startswith("~/"):
        raise RecipeError(f"{path}: no home folder is known here; write the whole path or set HOME")
    return Path(expanded)


SELECTION: Split = "validation"


REPORT: Split = "test"
