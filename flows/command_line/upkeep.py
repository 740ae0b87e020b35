"""`reglage registry fsck | gc`: check that everything is there, and delete what nothing needs."""

from math import inf

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import open_registry, registry_options, table
from ftlib.errors import IntegrityError, RecipeError
from ftlib.registry.fsck import Examination
from ftlib.registry.fsck import fsck as examine
from ftlib.registry.garbage_collection import DAY, Collected, GarbagePolicy, collect_garbage
from ftlib.storage import Place
from ftlib.wording import counted


@click.command()
@click.option("--deep", is_flag=True, help="Read every byte of every file, not only sizes.")
@registry_options
@json_option
def fsck(deep: bool, registry: Place, as_json: bool) -> None:
    """Check versions, manifests, files and aliases; exit code 6 if anything is wrong."""
    examination = examine(open_registry(registry), deep=deep)
    record = {"registry": registry.uri, "ok": not examination.faults, **examination.model_dump(mode="json")}
    emit(lambda: _print_examination(examination), record, as_json)
    if examination.faults:
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
    policy = GarbagePolicy(grace_days=grace, lease_days=lease)
    collected = collect_garbage(open_registry(registry), policy, delete=delete)
    record = {"registry": registry.uri, "acted": delete, **collected.model_dump(mode="json")}
    emit(lambda: _print_collected(collected, acted=delete), record, as_json)


def _print_examination(examination: Examination) -> None:
    """Print the faults first, then what was counted, then what nothing needs."""
    if examination.faults:
        emit(
            table(["where", "fault"], [[fault.path, fault.problem] for fault in examination.faults], "faults"),
            {},
            False,
        )
    read = "every byte read" if examination.deep else "sizes only; --deep reads every byte"
    rows = [
        ["models", str(examination.models)],
        ["versions", str(examination.versions)],
        ["aliases", str(examination.aliases)],
        ["files", f"{examination.blobs}, {examination.bytes / 1e6:.1f} MB ({read})"],
        ["faults", str(len(examination.faults)) if examination.faults else "none"],
        ["unreferenced objects", f"{len(examination.unreferenced)}{'; see gc' if examination.unreferenced else ''}"],
        ["publishers at work", ", ".join(examination.leases) or "none"],
        ["temporary files of the dead", str(len(examination.temporary))],
    ]
    emit(table(["what", "found"], rows), {}, as_json=False)
    for path in (*examination.unreferenced, *examination.temporary):
        click.echo(f"  {path}")


def _print_collected(collected: Collected, *, acted: bool) -> None:
    rows = [[path, "deleted" if acted else "would be deleted"] for path in (*collected.deleted, *collected.temporary)]
    rows += [[path, "silent, removed" if acted else "silent, would be removed"] for path in collected.dead_leases]
    rows += [[path, f"condemned, watched for {age / DAY:.1f} days"] for path, age in collected.condemned.items()]
    rows += [[path, "a publisher is at work"] for path in collected.live_leases]
    if rows:
        emit(table(["object", "state"], rows), {}, as_json=False)
    size = f"{counted(len(collected.deleted), 'object')}, {collected.deleted_bytes / 1e6:.1f} MB"
    click.echo(f"run {collected.run}: {size} deleted" if acted else f"{size} would be deleted; --delete acts")
