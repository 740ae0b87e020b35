"""`reglage interpolate`: two or more checkpoints to one, without a recipe."""

import hashlib
import json
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from pydantic import TypeAdapter, ValidationError

from flows.command_line.console import emit, json_option
from flows.command_line.model_places import model_folder
from flows.command_line.registry_options import registry_options
from ftlib.config import user_path
from ftlib.errors import ModelError, RecipeError
from ftlib.merging.batch_norm import RUNNING, moved_layers
from ftlib.merging.methods import METHODS, Kernel, Merge
from ftlib.merging.plan import Input, MergePlan, plan_merge
from ftlib.merging.recorded import check_recorded, recorded
from ftlib.models.folder import is_adapter
from ftlib.recipe.file import explain
from ftlib.storage import Place
from ftlib.storage.model_folders import check_free, put_folder
from ftlib.wording import counted, some
from ftlib.workspace import make_cache, user_cache


@click.command()
@click.argument("checkpoints", nargs=-1, required=True, metavar="A B [MORE...]")
@click.option(
    "--out", required=True, metavar="FOLDER", help="Folder or s3://bucket/folder to make; it must not hold anything."
)
@click.option("--method", type=click.Choice([*METHODS]), default="lerp", show_default=True, help="How they are merged.")
@click.option("--alpha", type=float, help="lerp and slerp: 0 is A, 1 is B.")
@click.option("--scale", type=float, help="task_arithmetic, ties and dare: times the task vectors.")
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
    fine-tunes of A. For `average` all of them are equal. An adapter folder (peft) counts as what it makes of A.
    """
    if len(checkpoints) < 2:
        raise RecipeError(f"interpolate needs at least two checkpoints, got {len(checkpoints)}; name A and B")
    kernel = _kernel(method, len(checkpoints), {"alpha": alpha, "scale": scale, **_parsed(options)})
    place = registry.beside(out)
    folders = [model_folder(spec, registry) for spec in checkpoints]
    named = list(zip(checkpoints, folders, strict=True))
    lineage_known = check_recorded(kernel, named)
    began = time.monotonic()
    with _written(place) as target:
        if as_adapter:
            result = _scaled_adapter(kernel, folders, target, max_shard_mb)
        else:
            shard_bytes = max_shard_mb and max_shard_mb * 10**6
            result = _merged_weights(kernel, named, target, shard_bytes, workers)
    record = {
        **result,
        "folder": place.uri if place.remote else str(user_path(out).absolute()),
        "merge": kernel.model_dump(mode="json"),
        "checkpoints": list(checkpoints),
        "lineage_known": lineage_known,
        "seconds": round(time.monotonic() - began, 3),
    }
    emit(lambda: _print(record), record, as_json)


def _merged_weights(
    kernel: Kernel, named: list[tuple[str, Path]], target: Path, shard_bytes: int | None, workers: int
) -> dict[str, Any]:
    """Stream the merge; an adapter among the inputs is merged into the first, in a folder of its own meanwhile."""
    adapters = [folder for _, folder in named if is_adapter(folder)]
    (base_name, base), *_ = named
    if is_adapter(base):
        raise ModelError(f"{base_name!r} is an adapter, which stands on another model: give that model as A")
    notes = list[str]()
    with ExitStack() as stack:
        whole: dict[Path, Path] = {}
        if adapters:
            from ftlib.merging.adapters import stands_elsewhere, write_merged
            from ftlib.merging.files import scratch_beside

            scratch = stack.enter_context(scratch_beside(target))
            notes_of = {adapter: stands_elsewhere(adapter, base) for adapter in dict.fromkeys(adapters)}
            for i, adapter in enumerate(notes_of):
                whole[adapter] = scratch / str(i)
                write_merged(adapter, base, whole[adapter])
                notes += notes_of[adapter]
            whole[base], warnings = _completed(adapters[0], base, scratch)
            notes += warnings
        plan = plan_merge(kernel, [Input(spec, whole.get(folder, folder)) for spec, folder in named], reference=1)
        notes += _mixed_statistics(plan)
        from ftlib.merging.files import write_merge  # torch, which no refusal needs

        merged = write_merge(plan, target, shard_bytes=shard_bytes, workers=workers, record=_record(kernel, named))
        return {**merged.model_dump(mode="json"), "warnings": [*notes, *merged.warnings]}


def _mixed_statistics(plan: MergePlan) -> list[str]:
    """Say which running statistics are mixed: they are not those of the mixed weights, and no rows are here."""
    layers = moved_layers([item.folder for item in plan.inputs])
    mixed = {tensor.name for tensor in plan.tensors if tensor.mixes}
    if not any(f"{layer}.{name}" in mixed for layer in layers for name in RUNNING):
        return []
    return [
        f"the running statistics of {counted(len(layers), 'BatchNorm layer')} are mixed, and what the mixed weights "
        "compute has others: a run measures them again on its training rows"
    ]


def _record(kernel: Kernel, named: list[tuple[str, Path]]) -> dict[str, Any]:
    """Say what is merged and how. Digests are those on record: hashing the inputs would take longer than the merge."""
    parts = [(spec, recorded(folder)) for spec, folder in named]
    return {
        "merge": kernel.model_dump(mode="json"),
        "checkpoints": [{"name": spec, "weights": record and record.weights} for spec, record in parts],
        "reglage": version("reglage"),
    }


def _completed(adapter: Path, base: Path, scratch: Path) -> tuple[Path, list[str]]:
    """Return A as an adapter's start: where A has no head, with the adapter's, which is the same at every alpha."""
    from ftlib.merging.adapters import lacks_head, write_completed

    if not lacks_head(adapter, base):
        return base, []
    given = write_completed(adapter, base, scratch / "start")
    return scratch / "start", [
        f"A has no {some(sorted(given), 3)}: at every alpha they are the adapter's, whose head was there first"
    ]


def _scaled_adapter(kernel: Kernel, folders: list[Path], target: Path, max_shard_mb: int | None) -> dict[str, Any]:
    from ftlib.merging.adapters import read_adapter, stands_elsewhere, write_scaled
    from ftlib.merging.files import appearing, scratch_beside

    if (alpha := kernel.scaling()) is None or max_shard_mb:
        raise RecipeError(
            "--as-adapter moves one adapter along the straight line: --alpha alone goes with it; "
            "leave it out to write merged weights"
        )
    base, adapter = folders
    notes = stands_elsewhere(adapter, base)
    with scratch_beside(target) as scratch, appearing(target) as work:
        start, warnings = _completed(adapter, base, scratch)
        mixed = write_scaled(adapter, start, alpha, work)
    return {"lora_alpha": read_adapter(target).get("lora_alpha"), "mixed": mixed, "warnings": [*notes, *warnings]}


@contextmanager
def _written(out: Place) -> Generator[Path]:
    """Give the folder to write; one of a bucket is written here first, and uploaded if the block succeeds."""
    if not out.remote:
        yield user_path(out.key).absolute()
        return
    check_free(out)
    from ftlib.merging.files import scratch_beside

    with scratch_beside(
        make_cache(user_cache()) / "outgoing" / hashlib.sha256(out.uri.encode()).hexdigest()[:16]
    ) as scratch:
        folder = scratch / "written"
        yield folder
        put_folder(folder, out)


def _kernel(method: str, count: int, numbers: dict[str, Any]) -> Kernel:
    given = METHODS[method].usual(count) | {name: value for name, value in numbers.items() if value is not None}
    if METHODS[method].pair and count != 2:
        raise RecipeError(f"--method {method} takes two checkpoints, got {count}; `average` and others take more")
    form, data = TypeAdapter[Kernel](Merge), {**given, "kind": method}
    try:
        kernel = form.validate_python(data)
    except ValidationError as error:
        lines = explain(error.errors(), data, form.json_schema())
        raise RecipeError("\n".join(f"--method {method}: {line}" for line in lines)) from None
    if kernel.leaves_out(count):
        raise RecipeError(f"--method {method} takes all {count} checkpoints; leave out what should not be in it")
    return kernel


def _parsed(options: tuple[str, ...]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for option in options:
        name, separator, value = option.partition("=")
        try:
            values[name] = json.loads(value)
        except ValueError:
            separator = ""
        if not separator:
            raise RecipeError(f"--option {option!r}: write name=value with a JSON value, for example density=0.3")
        if own := {"kind": "--method", "alpha": "--alpha", "scale": "--scale"}.get(name):
            raise RecipeError(f"--option {option!r}: that is what {own} says; leave the option out")
    return values


def _print(record: dict[str, Any]) -> None:
    """Print the warnings, and what was written where."""
    for warning in record["warnings"]:
        click.echo(f"warning: {warning}", err=True)
    if not record["lineage_known"]:
        click.echo(
            "note: what these were trained from is not recorded; that they belong together is your word", err=True
        )
    if "lora_alpha" in record:
        alpha = record["lora_alpha"]  # other types have none, and are only copied
        summary = "a copy" if alpha is None else f"lora_alpha {alpha:g}, {len(record['mixed'])} tensors mixed with A's"
        click.echo(f"the adapter at alpha {record['merge']['alpha']:g} is in {record['folder']}: {summary}")
        return
    if record["copied"] == record["tensors"] and record["merge"]["kind"] == "lerp":
        which = "A" if record["merge"]["alpha"] == 0.0 else "B"
        click.echo(f"alpha {record['merge']['alpha']:g} is a byte copy of {which}", err=True)
    summary = f"{record['tensors']} tensors, {record['copied']} of them copied, {record['bytes'] / 1e6:.1f} MB"
    click.echo(f"{record['merge']['kind']} of {', '.join(record['checkpoints'])} is in {record['folder']}: {summary}")
