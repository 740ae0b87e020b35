"""`reglage registry ...` and `reglage predict`: published versions from the command line."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import click

from flows.console import emit, json_option
from ftlib.errors import DataError, IntegrityError
from ftlib.model_registry import ModelRegistry, probe
from ftlib.storage import open_store
from ftlib.versions import Manifest, Version

version_argument = click.argument("version", metavar="NAME[@NUMBER|@ALIAS]")


def registry_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the registry is."""
    endpoint = click.option(
        "--endpoint-url", envvar="AWS_ENDPOINT_URL", metavar="URL", help="The S3 server, if it is not AWS."
    )
    where = click.option(
        "--registry",
        "uri",
        envvar="REGLAGE_REGISTRY",
        default="registry",
        show_default=True,
        metavar="URI",
        help="A folder, or s3://bucket/prefix.",
    )
    return where(endpoint(command))


@click.group()
def registry() -> None:
    """Published versions: list, show, pull and verify them, and probe a store."""


@registry.command("list")
@click.argument("name", required=False)
@registry_options
@json_option
def list_versions(name: str | None, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """List the models of a registry, or the versions of one model."""
    opened = ModelRegistry(open_store(uri, endpoint_url))
    models = [name] if name else opened.models()
    versions = {model: opened.versions(model) for model in models}
    if name and not versions[name]:
        opened.version(name)  # says what there is instead
    record = {
        "registry": opened.store.uri,
        "models": [{"name": model, "versions": [_facts(v) for v in found]} for model, found in versions.items()],
    }
    shown = versions[name] if name else [found[-1] for found in versions.values() if found]
    rows = [[str(version), version.published_at, version.manifest[:12]] for version in shown]
    emit(_table(["version", "published", "manifest"], rows), record, as_json)


@registry.command()
@version_argument
@registry_options
@json_option
def show(version: str, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """Show what a version is: its metrics, files and lineage."""
    opened = ModelRegistry(open_store(uri, endpoint_url))
    found = opened.resolve(version)
    manifest = opened.manifest(found)
    record = {**_facts(found), "registry": opened.store.uri, "manifest": manifest.model_dump(mode="json")}
    emit(lambda: _print_version(found, manifest), record, as_json)


@registry.command()
@version_argument
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path), required=False)
@registry_options
@json_option
def pull(version: str, folder: Path | None, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """Download a version to FOLDER (the model's name if not given), every byte checked.

    The folder appears only when it is whole, and loads with transformers' from_pretrained.
    """
    opened = ModelRegistry(open_store(uri, endpoint_url))
    found = opened.resolve(version)
    target = (folder or Path(found.name)).absolute()
    created = opened.pull(found, target)
    record = {**_facts(found), "folder": str(target), "created": created}
    emit(f"{found} {'is now' if created else 'was already'} in {target}", record, as_json)


@registry.command()
@version_argument
@registry_options
@json_option
def verify(version: str, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """Read every byte of a version again and compare it with the recorded digests."""
    opened = ModelRegistry(open_store(uri, endpoint_url))
    found = opened.resolve(version)
    if faults := opened.verify(found):
        raise IntegrityError("\n".join(f"{found}: {fault.path}: {fault.problem}" for fault in faults))
    manifest = opened.manifest(found)
    size = sum(file.bytes for file in manifest.files)
    record = {**_facts(found), "files": len(manifest.files), "bytes": size, "faults": []}
    emit(f"{found}: {len(manifest.files)} files, {size / 1e6:.1f} MB, all as recorded", record, as_json)


@registry.command("probe")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Races to run.")
@click.option("--writers", type=click.IntRange(min=2), default=16, show_default=True, help="Writers per race.")
@registry_options
@json_option
def probe_store(rounds: int, writers: int, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """Test whether a store lets exactly one of many racing writers win, as a registry needs it to."""
    store = open_store(uri, endpoint_url)
    started = time.monotonic()
    for _ in range(rounds):
        probe(store, writers)
    seconds = round(time.monotonic() - started, 3)
    record = {"registry": store.uri, "rounds": rounds, "writers": writers, "seconds": seconds, "safe": True}
    emit(f"{store.uri} is safe: in {rounds} races of {writers} writers one won each time", record, as_json)


@click.command()
@version_argument
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@registry_options
@json_option
def predict(version: str, batch_size: int, uri: str, endpoint_url: str | None, as_json: bool) -> None:
    """Label the lines on stdin with a published version: a label and its probability per line, tab-separated.

    Texts are cleaned and cut as in training. The version is pulled once and kept, checked, in the user's cache.
    """
    opened = ModelRegistry(open_store(uri, endpoint_url))
    found = opened.resolve(version)
    folder = _cache() / found.manifest
    opened.pull(found, folder)

    from ftlib.inference import predict as label

    predictions = label(folder, _lines(sys.stdin.buffer), batch_size)
    if as_json:
        answers = [prediction.model_dump(mode="json") for prediction in predictions]
        emit(answers, {**_facts(found), "predictions": answers}, as_json)
        return
    for prediction in predictions:
        click.echo(f"{prediction.label}\t{prediction.probability:.4f}")


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "reglage" / "versions"


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield decoded lines as they come, so that memory does not grow with the input."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"stdin line {number} is not UTF-8 (byte {error.start}); convert it first") from error


def _facts(version: Version) -> dict[str, object]:
    return {
        "name": version.name,
        "version": version.version,
        "manifest_sha256": version.manifest,
        "published_at": version.published_at,
    }


def _print_version(version: Version, manifest: Manifest) -> None:
    size = sum(file.bytes for file in manifest.files)
    click.echo(f"{version}, published {version.published_at}, {len(manifest.files)} files, {size / 1e6:.1f} MB")
    if manifest.description:
        click.echo(manifest.description)
    for title, columns, rows in (
        ("metrics on the test split", ["metric", "value"], [[k, f"{v:.4f}"] for k, v in manifest.metrics.items()]),
        ("lineage", ["what", "value"], list(_flat(manifest.lineage))),
        ("files", ["path", "MB", "sha256"], [[f.path, f"{f.bytes / 1e6:.2f}", f.sha256[:12]] for f in manifest.files]),
    ):
        emit(_table(columns, rows, title), {}, as_json=False)


def _flat(tree: Any, path: str = "") -> Iterator[list[str]]:
    """Yield the leaves of the lineage; the recipe is long and has its own digest, so --json alone shows it."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key != "recipe":
                yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield [path, str(tree)]


def _table(columns: list[str], rows: list[list[str]], title: str | None = None) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    return table
