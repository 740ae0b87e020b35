"""`reglage work list | gc`: what lies in a work folder, who needs it, and what nobody does."""

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from math import inf
from typing import Any

import click

from flows.command_line.console import emit, json_option
from flows.command_line.options import work_option
from flows.command_line.registry_options import table
from ftlib.errors import RecipeError
from ftlib.published.work_roots import collect_work
from ftlib.storage.files import in_bytes
from ftlib.wording import counted
from ftlib.work_collection import Retention, WorkCollected, WorkItem, WorkPolicy, collect_cache
from ftlib.workspace import Workspace, user_cache


@click.group()
def work() -> None:
    """Show what lies in a work folder, and delete what nobody needs."""


ignore_option = click.option(
    "--ignore-registry",
    "ignore",
    multiple=True,
    metavar="URI",
    help="A registry that is gone for good: its champions need nothing. Repeatable.",
)


def policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what is kept though nobody needs it; the command gets one `policy`."""

    @wraps(command)
    def judged(*args: Any, keep_days: float, keep_runs: int, retain: tuple[str, ...], **options: Any) -> None:
        if not 0.0 <= keep_days < inf:
            raise RecipeError(f"--keep-days: got {keep_days:g}, allowed are days from 0 on")
        policy = WorkPolicy(keep_days=keep_days, keep_runs=keep_runs, retention=Retention.parse(retain))
        command(*args, policy=policy, **options)

    days = click.option(
        "--keep-days", type=float, default=14.0, show_default=True, help="Keep what was used in so many days."
    )
    runs = click.option(
        "--keep-runs",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Keep what the last so many runs of every recipe used.",
    )
    retain = click.option(
        "--retain",
        multiple=True,
        metavar="KIND=DAYS",
        help="Delete what is older, whoever needs it: snapshots, prepared, quarantine, outcomes, logs. Repeatable.",
    )
    return days(runs(retain(judged)))


@work.command("list")
@policy_options
@click.option("--all", "every", is_flag=True, help="Every output, not only sums by stage.")
@ignore_option
@work_option
@json_option
def list_work(policy: WorkPolicy, every: bool, ignore: tuple[str, ...], work: str, as_json: bool) -> None:
    """List what the folder holds by stage, with size and age, and who needs it."""
    found = collect_work(Workspace(work), policy, ignore=ignore)
    emit(lambda: _print_list(found, every=every), found.model_dump(mode="json"), as_json)


@work.command()
@policy_options
@click.option("--yes/--dry-run", "delete", default=False, show_default="--dry-run", help="Delete, or only say what.")
@click.option("--cache", is_flag=True, help="Also the user's cache of pulled versions, which all projects share.")
@ignore_option
@work_option
@json_option
def gc(policy: WorkPolicy, delete: bool, cache: bool, ignore: tuple[str, ...], work: str, as_json: bool) -> None:
    """Delete what nobody needs: it is made, or fetched, again if somebody asks for it.

    Runs may go on meanwhile. Kept are the last runs of every recipe, what champions were trained on, what waits for an
    answer, what a process uses, and whatever was used within the hour.
    """
    parts = [collect_work(Workspace(work), policy, delete=delete, ignore=ignore)]
    if cache:
        parts.append(collect_cache(user_cache(), policy, delete=delete))
    record = {"acted": delete, "folders": [part.model_dump(mode="json") for part in parts]}
    emit(lambda: _print_gc(parts, acted=delete), record, as_json)


def _print_list(found: WorkCollected, *, every: bool) -> None:
    """Print sums by stage or every output, and what a collection would free."""
    items = [*found.kept, *found.garbage]
    if every:
        rows = [[item.path, in_bytes(item.bytes), _age(item), "; ".join(item.needed_by) or "nobody"] for item in items]
        emit(table(["what", "size", "last used", "needed by"], rows), {}, as_json=False)
    else:
        emit(table(["stage", "how many", "size", "of it garbage", "recipes"], _sums(found)), {}, as_json=False)
    kept, garbage = sum(item.bytes for item in found.kept), found.garbage_bytes
    click.echo(f"{found.folder}: {in_bytes(kept)} needed, {in_bytes(garbage)} garbage; see reglage work gc")


def _sums(found: WorkCollected) -> list[list[str]]:
    """Return a row for each stage: the largest first."""
    items, recipes = defaultdict[str, list[WorkItem]](list), defaultdict[str, set[str]](set)
    for item in (*found.kept, *found.garbage):
        items[item.stage].append(item)
        recipes[item.stage] |= {*item.runs}
    largest = sorted(items, key=lambda stage: -sum(item.bytes for item in items[stage]))
    return [
        [
            stage,
            str(len(items[stage])),
            in_bytes(sum(item.bytes for item in items[stage])),
            in_bytes(sum(item.bytes for item in items[stage] if not item.needed_by)),
            ", ".join(sorted(recipes[stage])),
        ]
        for stage in largest
    ]


def _age(item: WorkItem) -> str:
    return f"{item.days:.1f} days ago" if item.days >= 1 else f"{24 * item.days:.1f} hours ago"


def _print_gc(parts: list[WorkCollected], *, acted: bool) -> None:
    """Print what was deleted, or would be, and what others keep us from."""
    for part in parts:
        if part.garbage:
            rows = [[item.path, in_bytes(item.bytes), _age(item)] for item in part.garbage]
            emit(table(["deleted" if acted else "would be deleted", "size", "last used"], rows), {}, as_json=False)
        count, size = counted(len(part.garbage), "item"), in_bytes(part.garbage_bytes)
        click.echo(f"{part.folder}: {count}, {size} {'deleted' if acted else 'would be deleted; --yes acts'}")
        if part.watched:
            size = in_bytes(sum(item.bytes for item in part.watched))
            click.echo(
                f"{counted(len(part.watched), 'more file')}, {size}, that no record names: later runs delete them"
            )
        for path, who in part.missed.items():
            click.echo(f"{path}: its retention is over, and it is needed by {'; '.join(who)}")
        if part.busy:
            click.echo(f"{counted(len(part.busy), 'item')} stay for now: a run uses the folder; run it again later")
