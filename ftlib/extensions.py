"""Parts of a recipe that other packages bring: named by `kind` like Réglage's own, and checked when they are joined.

A distribution names its class, or its function, as an entry point of one of these groups; see docs/add/extension.md.

    reglage.metric  .source  .format  .objective  .tuning  .optimizer  .interpolation  .reward
                                               a class that joins the union
    reglage.checker                            a function of a Recipe that yields what does not fit together in it

What cannot join is left out and remembered: reading a recipe is then refused, in one line for each
(`check_extensions`), and records that need none of it can still be read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Annotated, Any, Union, cast, get_args

from pydantic import BaseModel, BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema

from ftlib.config import Config, Origin
from ftlib.errors import RecipeError, first_line
from ftlib.fingerprint import file_digest
from ftlib.wording import some

CHECKER = "reglage.checker"
MEMBERS = ("metric", "source", "format", "objective", "tuning", "optimizer", "interpolation", "reward")
"""The fields, or lists of them, whose union is open; their group is `reglage.` and this."""

Checker = Callable[[Any], Iterable[str]]
"""A function of a Recipe that yields a line, `path: what, got, allowed`, for everything that does not fit together."""


class Open:
    """Marks a union of classes that are told apart by `kind` as open: what is installed for the group joins it.

        Metric = Annotated[Accuracy | F1, Open("reglage.metric")]

    It joins when pydantic makes the first class with such a field. A type checker sees Réglage's own members, which
    have all that is asked of the others.
    """

    def __init__(self, group: str, default: str | None = None) -> None:
        """Take the group's name, and the kind that is meant where none is said."""
        self.group, self.default = group, default

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the whole union."""
        members: Any = Union
        union: Any = members[_joined(self.group, get_args(source))]
        annotated = cast("Any", Annotated)[union, Field(discriminator="kind"), BeforeValidator(self._with_kind)]
        return handler.generate_schema(annotated)

    def _with_kind(self, value: object) -> object:
        if self.default is None or not isinstance(value, dict) or "kind" in value:
            return cast("object", value)
        return {"kind": self.default, **cast("dict[str, object]", value)}


def check_extensions() -> None:
    """Raise RecipeError, one line each, if something that is installed for a union or as a checker cannot be used."""
    _checkers()
    if refused := [line for lines in _REFUSED.values() for line in lines]:
        raise RecipeError("\n".join(refused))


def misfits(recipe: Config) -> Iterator[str]:
    """Yield what the installed checkers find, each line with who says so. Raises RecipeError for one that fails."""
    for entry, check in _checkers():
        try:
            lines = [str(line) for line in check(recipe)]
        except Exception as error:
            raise _refusal(entry, f"failed: {first_line(error)}") from error
        yield from (f"{' '.join(line.split())} (says {entry.name!r} of {called(entry)})" for line in lines)


def in_use(recipe: Config) -> dict[str, dict[str, object]]:
    """Return which extensions a recipe holds, and which checked it, with their version and the files that say it."""
    origins = {f"checker {entry.name}": _as_record(_origin(entry, check)) for entry, check in _checkers()}
    for kind, origin in _brought(recipe):
        origins[kind] = _as_record(origin)
    return dict(sorted(origins.items()))


def installed(group: str) -> tuple[EntryPoint, ...]:
    """Return what is installed for a group, in order of name."""
    entries = _all_installed().select(group=group)
    return tuple(sorted(entries, key=lambda entry: (entry.name, called(entry))))


_all_installed = cache(entry_points)
"""All groups in one pass over the environment, which takes milliseconds."""


_JOINED: dict[str, tuple[type[Config], ...]] = {}
_REFUSED: dict[str, list[str]] = {}
"""Both by group, and for good: what is installed does not change under a process."""


def _joined(group: str, own: tuple[type[Config], ...]) -> tuple[type[Config], ...]:
    """Return a union's own members and those that are installed for it, each of which has what all the own ones do."""
    if group not in _JOINED:
        members, refused = list(own), list[str]()
        for entry in installed(group):
            try:
                members.append(_member(entry, own, members[len(own) :]))
            except RecipeError as error:
                refused.append(str(error))
        _JOINED[group], _REFUSED[group] = tuple(members), refused
    return _JOINED[group]


def _member(entry: EntryPoint, own: tuple[type[Config], ...], joined: Iterable[type[Config]]) -> type[Config]:
    """Load a class and check that it can join. Raises RecipeError."""
    member = _loaded(entry)
    if not (isinstance(member, type) and issubclass(member, Config)):
        raise _refusal(entry, "is no class that extends ftlib.config.Config")
    kind = kind_of(member)
    if kind is None:
        raise _refusal(entry, 'has no field `kind: Literal["name"] = "name"`')
    if kind != entry.name:
        raise _refusal(entry, f"has kind {kind!r}; an entry point is named as the kind")
    if kind in map(kind_of, own):
        raise _refusal(entry, f"has kind {kind!r}, which is Réglage's own; give it another")
    for other in joined:
        if kind == kind_of(other) and other.brought_by:
            raise _refusal(entry, f"has kind {kind!r}, as {other.brought_by.distribution} has")
    if lacks := sorted(_words(own) - _has(member, own)):
        raise _refusal(entry, f"lacks {some(lacks)}, which every {entry.group.removeprefix('reglage.')} has")
    if inspect.isabstract(member):
        raise _refusal(entry, "is abstract")
    member.brought_by = _origin(entry, member)
    return member


def kind_of(member: type[Config]) -> str | None:
    """Return the one value that a class's `kind` has and may have; None without such a field."""
    field = member.model_fields.get("kind")
    if field is None or get_args(field.annotation) != (field.default,) or not isinstance(field.default, str):
        return None
    return field.default


def _words(own: tuple[type[Config], ...]) -> set[str]:
    """Return the fields, methods and class variables that all of a union's own members have."""
    return set[str].intersection(*({*dir(member), *member.model_fields} for member in own)) - {
        name for name in {*dir(own[0])} if name.startswith("_") or hasattr(Config, name)
    }


def _has(member: type[Config], own: tuple[type[Config], ...]) -> set[str]:
    """Return which names a class has; one that should be a method counts only if it is one."""
    names = {*dir(member), *member.model_fields}
    methods = {name for name in _words(own) if all(callable(getattr(of, name, None)) for of in own)}
    return {name for name in names if name not in methods or callable(getattr(member, name, None))}


@cache
def _checkers() -> tuple[tuple[EntryPoint, Checker], ...]:
    """Load the checkers, once. What cannot be used is remembered as refused."""
    checkers: list[tuple[EntryPoint, Checker]] = []
    refused: list[str] = []
    for entry in installed(CHECKER):
        try:
            check = _loaded(entry)
            if not callable(check):
                raise _refusal(entry, "is no function of a Recipe")
            checkers.append((entry, cast("Checker", check)))
        except RecipeError as error:
            refused.append(str(error))
    _REFUSED[CHECKER] = refused
    return tuple(checkers)


def _loaded(entry: EntryPoint) -> object:
    if not entry.pattern.match(entry.value):
        raise _refusal(entry, "is not written as package.module:name")
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise _refusal(entry, f"cannot be loaded: {first_line(error)}") from error


def _origin(entry: EntryPoint, loaded: object) -> Origin:
    """Say where a class or function comes from: its own file, and those of its bases in the same package."""
    package = entry.module.partition(".")[0]
    parts = inspect.getmro(loaded) if isinstance(loaded, type) else (loaded,)
    modules = {part.__module__: part for part in cast("tuple[Any, ...]", parts)}
    try:
        files = {
            module: file_digest(Path(inspect.getfile(part)))
            for module, part in sorted(modules.items())
            if module.partition(".")[0] == package
        }
    except (OSError, TypeError) as error:
        raise _refusal(entry, f"has no file whose bytes could stand for it: {first_line(error)}") from error
    version = entry.dist.version if entry.dist else ""
    return Origin(entry.dist.name if entry.dist else package, version, tuple(files.items()))


def _brought(value: object) -> Iterator[tuple[str, Origin]]:
    if isinstance(value, BaseModel):
        if isinstance(value, Config) and value.brought_by:
            yield str(getattr(value, "kind", type(value).__name__)), value.brought_by
        for name in type(value).model_fields:
            yield from _brought(getattr(value, name))
    elif isinstance(value, dict):
        for member in cast("dict[str, object]", value).values():
            yield from _brought(member)
    elif isinstance(value, tuple):
        for member in cast("tuple[object, ...]", value):
            yield from _brought(member)


def _as_record(origin: Origin) -> dict[str, object]:
    return {"distribution": origin.distribution, "version": origin.version, "files": dict(origin.files)}


def called(entry: EntryPoint) -> str:
    """Name the distribution that brings it, with its version."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.module


def _refusal(entry: EntryPoint, what: str) -> RecipeError:
    who = f"{entry.group} {entry.name!r} of {called(entry)} ({entry.value})"
    return RecipeError(f"{who} {what}; repair or uninstall {entry.dist.name if entry.dist else 'it'}")
