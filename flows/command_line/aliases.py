"""`reglage registry promote | rollback | history`: what an alias means, since when, and why."""

import getpass
from collections.abc import Callable

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import open_registry, registry_options, table, version_argument
from flows.retraining.alias_move import AliasMove, newest_entry
from ftlib.registry import CHAMPION
from ftlib.storage import Place

alias_option = click.option("--alias", default=CHAMPION, show_default=True, help="The name that moves.")


def user_name() -> str:
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
        default=user_name,
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
    entry = opened.resolve(version)
    _make(AliasMove.promotion(opened, entry.name, alias, entry.version, expected), who, why, as_json)


@click.command()
@click.argument("name")
@click.option(
    "--to",
    type=click.IntRange(min=1),
    metavar="VERSION",
    help="A version that it meant before. [default: the last that no rollback took away]",
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
    _make(AliasMove.rollback(open_registry(registry), name, alias, to, expected), who, why, as_json)


@click.command()
@click.argument("name")
@alias_option
@registry_options
@json_option
def history(name: str, alias: str, registry: Place, as_json: bool) -> None:
    """Show every move of an alias: when, to what, by whom, and why."""
    opened = open_registry(registry)
    newest_entry(opened, name, alias)
    entries = opened.history(name, alias)
    record = {"name": name, "alias": alias, "entries": [entry.model_dump(mode="json") for entry in entries]}
    rows = [[str(e.sequence), f"{e.name}@{e.version}", e.at, e.who, e.why] for e in entries]
    emit(table(["entry", "version", "at", "who", "why"], rows, f"{name}@{alias}"), record, as_json)


def _make(move: AliasMove, who: str, why: str, as_json: bool) -> None:
    entry = move.make(who, why)
    emit(move.outcome(entry), {**entry.model_dump(mode="json"), "moved": move.moved(entry)}, as_json)
