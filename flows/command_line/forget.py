"""`reglage forget`: clear every trace of some rows from a work folder, and keep them from coming back."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from flows.command_line.aliases import user_name
from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.lineage import spellings
from flows.command_line.options import set_option, work_option
from flows.command_line.registry_options import table
from ftlib.errors import RecipeError, ReglageError, first_line
from ftlib.published.erasure import Eraser, Erasure, check_done
from ftlib.published.erasure_in_bucket import BucketEraser
from ftlib.published.work_roots import registries_of
from ftlib.registry.reading import RegistryReader
from ftlib.storage import Place, open_store
from ftlib.storage.files import in_bytes
from ftlib.wording import counted
from ftlib.workspace import InBucket, Workspace, user_cache


@click.command()
@click.option("--key", "keys", multiple=True, metavar="VALUE", help="The rows' own key (`datasets.*.key`). Repeatable.")
@click.option(
    "--keys", "file", type=UserPath(exists=True, dir_okay=False), metavar="FILE", help="More of them, one a line."
)
@click.option("--dataset", metavar="NAME", help="Whose keys they are; by default those of every dataset with a key.")
@click.option("--delete", is_flag=True, help="Clear them away; without it nothing is written.")
@click.option("--by", metavar="WHO", help="Who asked for it, for the certificate. [default: the user]")
@click.option(
    "--registry",
    "registry_uri",
    envvar="REGLAGE_REGISTRY",
    metavar="URI",
    help="A registry that is asked which versions learnt the rows, beside those that runs here published to.",
)
@click.option("--endpoint-url", envvar="AWS_ENDPOINT_URL", metavar="URL", help="The S3 server, if it is not AWS.")
@click.option(
    "--retrain",
    "recipe",
    type=UserPath(exists=True, dir_okay=False),
    metavar="RECIPE",
    help="Then retrain this recipe's model without the rows, as `reglage retrain` does.",
)
@set_option
@work_option
@json_option
def forget(
    keys: tuple[str, ...],
    file: Path | None,
    dataset: str | None,
    delete: bool,
    by: str | None,
    registry_uri: str | None,
    endpoint_url: str | None,
    recipe: Path | None,
    overrides: tuple[str, ...],
    work: str,
    as_json: bool,
) -> None:
    """Forget rows: clear what the work place and the user's cache keep of them, and never ingest them again.

    Shows what it would clear, and which versions learnt the rows; --delete acts, and writes a certificate. A model that
    was trained on a row may still know it: --retrain starts a training without it. Run it again after it was killed.
    """
    if recipe is not None and not delete:
        raise click.UsageError("--retrain trains without the rows, which only --delete takes out; give both")
    asked = (*spellings((*keys, *(_lines(file) if file else ()))),)
    place = Workspace(work)
    readers, unknown = _registries(place, registry_uri, endpoint_url)
    who = by or user_name()
    if isinstance(place, InBucket):
        eraser = BucketEraser(place, asked, dataset, who, user_cache())
    else:
        eraser = Eraser(place.root, asked, dataset, who, user_cache())
    erasure = eraser.erase(readers, delete=delete, not_known=unknown)
    record = {**erasure.model_dump(mode="json"), "remaining": erasure.remaining}
    emit(lambda: _print(erasure), record, as_json)
    check_done(erasure)
    if recipe is not None:
        from flows.command_line.run import run_retraining

        challenge = run_retraining(recipe, overrides, work)
        from flows.command_line.retrain_summary import as_record, print_retraining

        emit(lambda: print_retraining(challenge, work), as_record(challenge), as_json)


def _lines(file: Path) -> Iterable[str]:
    """Read one key a line; empty lines are none. Raises RecipeError for what is no text."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"--keys: {file} is no UTF-8 text ({error.reason}); write one key a line") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _registries(work: Workspace, uri: str | None, endpoint_url: str | None) -> tuple[list[RegistryReader], list[str]]:
    """Open the registries that know versions; of one that cannot be read, say so."""
    places = {place: None for place in registries_of(work)} | ({(uri, endpoint_url): None} if uri else {})
    readers: list[RegistryReader] = []
    unknown: list[str] = []
    for place, endpoint in places:
        try:
            reader = RegistryReader(open_store(Place.parse(place, endpoint)))
            reader.check_format()
        except ReglageError as error:
            unknown.append(f"not known of versions in {place}: {first_line(error)}")
        else:
            readers.append(reader)
    return readers, unknown


def _print(erasure: Erasure) -> None:
    """Print the traces, the versions that learnt the rows, and what is not cleared."""

    def say(rows: Sequence[Sequence[str]]) -> None:
        emit(table([*rows[0]], [[*row] for row in rows[1:]]), {}, as_json=False)

    verb = "cleared" if erasure.acted else "would be cleared"
    if erasure.traces:
        say([[verb, "what", "size"], *([one.path, one.kind, in_bytes(one.bytes)] for one in erasure.traces)])
    if erasure.learnt:
        say([
            ["version", "dataset", "the row"],
            *dict.fromkeys(
                (one.version, one.dataset, one.use + (f", through {one.through}" if one.through else ""))
                for one in erasure.learnt
            ),
        ])  # fmt: skip
    where, rows = erasure.folder, counted(erasure.rows, "row")
    click.echo(f"{where}: {rows} of {counted(erasure.keys, 'key')}, {counted(len(erasure.traces), 'trace')} {verb}")
    for key in erasure.absent[:20]:
        click.echo(f"key {key}: no row here has it")
    if len(erasure.absent) > 20:
        click.echo(f"and {len(erasure.absent) - 20:,} more keys that no row here has")
    for line in erasure.remaining:
        click.echo(f"not cleared: {line}")
    if erasure.certificate:
        click.echo(f"certificate: {erasure.certificate}")
    elif not erasure.in_use:
        click.echo("nothing was written; --delete acts")
