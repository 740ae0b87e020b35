"""`reglage registry fsck | gc`: is everything there, and what may go."""

from math import inf

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import open_registry, registry_options, table
from ftlib.errors import IntegrityError, RecipeError
from ftlib.registry.fsck import Examination
from ftlib.registry.fsck import fsck as examine
from ftlib.registry.garbage_collection import DAY, Collected, Collector
from ftlib.storage import Place
from ftlib.wording import counted


@click.command()
@click.option("--deep", is_flag=True, help="Read every byte of every file, not only sizes.")
@registry_options
@json_option
def fsck(deep: bool, registry: Place, as_json: bool) -> None:
    """Check versions, manifests, files and aliases; exit code 6 if anything is wrong."""
    found = examine(open_registry(registry), deep=deep)
    record = {"registry": registry.uri, "ok": not found.faults, **found.model_dump(mode="json")}
    emit(lambda: _print_examination(found), record, as_json)
    if found.faults:
        click.get_current_context().exit(IntegrityError.exit_code)


@click.command()
@click.option("--delete", is_flag=True, help="Condemn and delete; without it nothing is written.")
@click.option(
    "--grace",
    type=float,
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="How long garbage is watched before it is deleted.",
)
@click.option(
    "--lease",
    type=float,
    default=1.0,
    show_default=True,
    metavar="DAYS",
    help="How long a publisher may be silent before it counts as dead.",
)
@registry_options
@json_option
def gc(delete: bool, grace: float, lease: float, registry: Place, as_json: bool) -> None:
    """Delete what no version needs, once several runs have seen it so for the grace period.

    Run it with --delete every day or week, as the only role that may delete.
    """
    for option, days in (("--grace", grace), ("--lease", lease)):
        if not 0.0 <= days < inf:
            raise RecipeError(f"{option}: got {days:g}, allowed are days from 0 on")
    collector = Collector(open_registry(registry), grace * DAY, lease * DAY)
    found = collector.collect(delete=delete)
    record = {"registry": registry.uri, "acted": delete, **found.model_dump(mode="json")}
    emit(lambda: _print_collected(found, acted=delete), record, as_json)


def _print_examination(found: Examination) -> None:
    if found.faults:
        emit(table(["where", "fault"], [[fault.path, fault.problem] for fault in found.faults], "faults"), {}, False)
    read = "every byte read" if found.deep else "sizes only; --deep reads every byte"
    rows = [
        ["models", str(found.models)],
        ["versions", str(found.versions)],
        ["aliases", str(found.aliases)],
        ["files", f"{found.blobs}, {found.bytes / 1e6:.1f} MB ({read})"],
        ["faults", str(len(found.faults)) if found.faults else "none"],
        ["unreferenced objects", f"{len(found.unreferenced)}{'; see gc' if found.unreferenced else ''}"],
        ["publishers at work", ", ".join(found.leases) or "none"],
        ["temporary files of the dead", str(len(found.temporary))],
    ]
    emit(table(["what", "found"], rows), {}, as_json=False)
    for path in (*found.unreferenced, *found.temporary):
        click.echo(f"  {path}")


def _print_collected(found: Collected, *, acted: bool) -> None:
    rows = [[path, "deleted" if acted else "would be deleted"] for path in (*found.deleted, *found.temporary)]
    rows += [[path, "silent, removed" if acted else "silent, would be removed"] for path in found.dead_leases]
    rows += [[path, f"condemned, watched for {age / DAY:.1f} days"] for path, age in found.condemned.items()]
    rows += [[path, "a publisher is at work"] for path in found.live_leases]
    if rows:
        emit(table(["object", "state"], rows), {}, as_json=False)
    size = f"{counted(len(found.deleted), 'object')}, {found.deleted_bytes / 1e6:.1f} MB"
    click.echo(f"run {found.run}: {size} deleted" if acted else f"{size} would be deleted; --delete acts")
