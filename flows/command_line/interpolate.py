"""`reglage interpolate`: two or more checkpoints to one, without a recipe."""

from typing import Any

import click

from flows.command_line.console import emit, json_option
from flows.command_line.registry_options import registry_options
from flows.models.merge_folders import given_options, kernel_of, merge_folders, notes, summary
from ftlib.merging.methods import METHODS
from ftlib.storage import Place


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="A B [MORE...]")
@click.option(
    "--out", required=True, metavar="FOLDER", help="Folder or s3://bucket/folder to make; it must not hold anything."
)
@click.option("--method", type=click.Choice([*METHODS]), default="lerp", show_default=True, help="How they are merged.")
@click.option("--alpha", type=float, help="lerp and slerp: 0 is A, 1 is B.")
@click.option("--scale", type=float, help="task_arithmetic, ties, dare and graft: times what was learnt.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="NAME=JSON",
    help="Another number of the method, repeatable: density=0.3, seed=1.",
)
@click.option("--max-shard-mb", type=click.IntRange(min=1), help="Make new shards of at most this size.")
@click.option("--as-adapter", is_flag=True, help="B is an adapter of A: write it scaled to alpha, not merged weights.")
@click.option("--workers", type=click.IntRange(min=1), default=2, show_default=True, help="Tensors to merge at once.")
@registry_options
@json_option
def interpolate(
    checkpoints: tuple[str, ...],
    out: str,
    method: str,
    alpha: float | None,
    scale: float | None,
    options: tuple[str, ...],
    max_shard_mb: int | None,
    as_adapter: bool,
    workers: int,
    registry: Place,
    as_json: bool,
) -> None:
    """Merge model folders or versions NAME@NUMBER into a new folder, streaming, in a few megabytes of memory.

    A is the start (theta0) and B the fine-tune, whose config, tokenizer and shards the result has; MORE are other
    fine-tunes of A. For `average` all of them are equal; for `graft` the third is the model that B - A is added to,
    and the result is like it. An adapter folder (peft) counts as what it makes of A.
    """
    kernel = kernel_of(method, len(checkpoints), {"alpha": alpha, "scale": scale, **given_options(options)})
    record = merge_folders(
        checkpoints, out, kernel, registry, max_shard_mb=max_shard_mb, as_adapter=as_adapter, workers=workers
    )
    emit(lambda: _print(record), record, as_json)


def _print(record: dict[str, Any]) -> None:
    """Print the warnings, and what was written where."""
    for warning in record["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    for words in notes(record):
        click.echo(f"note: {words}", err=True)
    click.echo(summary(record))
