"""`reglage registry promote | rollback | history`: what an alias means, since when, and why."""

import getpass
from collections.abc import Callable

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import open_registry, registry_options, table, version_argument
from ftlib.errors import StorageError
from ftlib.registry import CHAMPION, AliasEntry, ModelRegistry
from ftlib.registry.versions import model_name
from ftlib.storage import Place

alias_option = click.option("--alias", default=CHAMPION, show_default=True, help="The name that moves.")


def _user() -> str:
    """Return the user's name; a container may run as a number that has none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def move_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add who moves an alias, why, and against what it was decided."""
    expected = click.option(
        "--expected",
        type=click.IntRange(min=0),
        metavar="ENTRY",
        help="The entry you decided against (see history; 0: none). [default: the newest one now]",
    )
    who = click.option(
        "--who",
        envvar="REGLAGE_USER",
        default=_user,
        help="Who moves it; kept in the history. [default: the user's name]",
    )
    why = click.option("--why", default="", help="The reason; kept in the history.")
    return alias_option(expected(who(why(command))))


@click.command()
@version_argument
@move_options
@registry_options
@json_option
def promote(
    version: str,
    alias: str,
    expected: int | None,
    who: str,
    why: str,
    registry: Place,
    as_json: bool,
) -> None:
    """Let an alias (champion) mean a version, for everyone who reads NAME@champion from now on."""
    opened = open_registry(registry)
    found = opened.resolve(version)
    before = opened.alias(found.name, alias)
    entry = opened.promote(found.name, alias, found.version, _decided(before, expected), who, why)
    _say(entry, before, as_json)


@click.command()
@click.argument("name")
@click.option(
    "--to", type=click.IntRange(min=1), metavar="VERSION", help="A version that it meant before. [default: the last]"
)
@move_options
@registry_options
@json_option
def rollback(
    name: str,
    to: int | None,
    alias: str,
    expected: int | None,
    who: str,
    why: str,
    registry: Place,
    as_json: bool,
) -> None:
    """Let an alias mean again what it meant before. Nothing is deleted; the history gets one more entry."""
    opened = open_registry(registry)
    before = _newest(opened, name, alias)
    entry = opened.rollback(model_name(name), alias, _decided(before, expected), who, why, to)
    _say(entry, before, as_json)


@click.command()
@click.argument("name")
@alias_option
@registry_options
@json_option
def history(name: str, alias: str, registry: Place, as_json: bool) -> None:
    """Show every move of an alias: when, to what, by whom, and why."""
    opened = open_registry(registry)
    _newest(opened, name, alias)
    entries = opened.history(name, alias)
    record = {"name": name, "alias": alias, "entries": [entry.model_dump(mode="json") for entry in entries]}
    rows = [[str(e.sequence), f"{e.name}@{e.version}", e.at, e.who, e.why] for e in entries]
    emit(table(["entry", "version", "at", "who", "why"], rows, f"{name}@{alias}"), record, as_json)


def _newest(opened: ModelRegistry, name: str, alias: str) -> AliasEntry:
    opened.version(model_name(name))  # says what models there are
    if (entry := opened.alias(name, alias)) is None:
        known = ", ".join(opened.aliases(name)) or "none"
        raise StorageError(f"{opened.store.uri}: {name}@{alias} was never set; {name} has the aliases {known}")
    return entry


def _decided(before: AliasEntry | None, expected: int | None) -> int | None:
    """Return the entry that was decided against: the one seen now, unless the caller saw it earlier."""
    if expected is not None:
        return expected or None
    return before.sequence if before else None


def _say(entry: AliasEntry, before: AliasEntry | None, as_json: bool) -> None:
    moved = before is None or before.sequence != entry.sequence
    was = f" (before: version {before.version})" if before and moved else ""
    said = f"{entry.name}@{entry.alias} {'is now' if moved else 'was already'} version {entry.version}{was}"
    emit(f"{said}, entry {entry.sequence}", {**entry.model_dump(mode="json"), "moved": moved}, as_json)
