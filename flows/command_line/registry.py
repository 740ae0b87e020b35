"""`reglage registry ...`: published versions from the command line."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import click

from flows.command_line.aliases import history, promote, rollback
from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.copy_version import copy
from flows.command_line.export import export
from flows.command_line.publish import publish
from flows.command_line.registry_options import (
    aliases_of,
    facts,
    key_option,
    open_registry,
    registry_options,
    table,
    version_argument,
)
from flows.command_line.upkeep import fsck, gc
from ftlib.errors import IntegrityError
from ftlib.evaluation.results import UNDEFINED
from ftlib.registry import probe
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Manifest, Version
from ftlib.storage import Place, open_store
from ftlib.wording import counted


@click.group()
def registry() -> None:
    """Publish, list, check, copy and collect versions, and move what their aliases mean."""


for command in (publish, copy, promote, rollback, history, fsck, gc, export):
    registry.add_command(command)


@registry.command("list")
@click.argument("name", required=False)
@registry_options
@json_option
def list_versions(name: str | None, registry: Place, as_json: bool) -> None:
    """List the models of a registry, or the versions of one model."""
    opened = open_registry(registry)
    models = [name] if name else opened.models()
    versions = {model: opened.versions(model) for model in models}
    if name and not versions[name]:
        opened.version(name)  # says what there is instead
    meant = {model: aliases_of(opened, model) for model in models}
    record = {
        "registry": opened.store.uri,
        "models": [
            {"name": model, "versions": [facts(v) for v in of_model], "aliases": meant[model]}
            for model, of_model in versions.items()
        ],
    }
    shown = versions[name] if name else [of_model[-1] for of_model in versions.values() if of_model]
    rows = [
        [str(v), v.published_at, v.manifest[:12], ", ".join(_words(meant[v.name], None if name is None else v.version))]
        for v in shown
    ]
    emit(table(["version", "published", "manifest", "aliases"], rows), record, as_json)


def _words(aliases: dict[str, int], version: int | None) -> list[str]:
    """Name the aliases of one version, or all of them with what they mean."""
    if version is None:
        return [f"{alias}: {number}" for alias, number in aliases.items()]
    return [alias for alias, number in aliases.items() if number == version]


@registry.command()
@version_argument
@registry_options
@json_option
def show(version: str, registry: Place, as_json: bool) -> None:
    """Show what a version is: its metrics, files and lineage."""
    opened = open_registry(registry)
    resolved = opened.resolve(version)
    manifest = opened.manifest(resolved)
    record = {**facts(resolved), "registry": opened.store.uri, "manifest": manifest.model_dump(mode="json")}
    emit(lambda: _print_version(resolved, manifest), record, as_json)


@registry.command()
@version_argument
@click.argument("folder", type=UserPath(file_okay=False), required=False)
@key_option
@registry_options
@json_option
def pull(version: str, folder: Path | None, key: PublicKey | None, registry: Place, as_json: bool) -> None:
    """Download a version to FOLDER (the model's name if not given), every byte checked.

    The folder appears only when it is whole, and loads with transformers' from_pretrained.
    """
    opened = open_registry(registry)
    resolved = opened.resolve(version)
    target = (folder or Path(resolved.name)).absolute()
    created = opened.pull(resolved, target, key)
    record = {**facts(resolved), "folder": str(target), "created": created}
    emit(f"{resolved} {'is now' if created else 'was already'} in {target}", record, as_json)


@registry.command()
@version_argument
@key_option
@registry_options
@json_option
def verify(version: str, key: PublicKey | None, registry: Place, as_json: bool) -> None:
    """Read every byte of a version again and compare it with the recorded digests."""
    opened = open_registry(registry)
    resolved = opened.resolve(version)
    if faults := opened.verify(resolved, key):
        raise IntegrityError("\n".join(f"{resolved}: {fault.path}: {fault.problem}" for fault in faults))
    manifest = opened.manifest(resolved)
    size = sum(file.bytes for file in manifest.files)
    record = {**facts(resolved), "files": len(manifest.files), "bytes": size, "faults": []}
    record["signed_by"] = key.keyid if key else None
    signed = f", signed by {key.path}" if key else ""
    emit(
        f"{resolved}: {counted(len(manifest.files), 'file')}, {size / 1e6:.1f} MB, all as recorded{signed}",
        record,
        as_json,
    )


@registry.command("probe")
@click.option("--rounds", type=click.IntRange(min=1), default=10, show_default=True, help="Races to run.")
@click.option("--writers", type=click.IntRange(min=2), default=16, show_default=True, help="Writers per race.")
@registry_options
@json_option
def probe_store(rounds: int, writers: int, registry: Place, as_json: bool) -> None:
    """Test whether a store lets exactly one of many racing writers win, as a registry needs it to."""
    store = open_store(registry)
    started = time.monotonic()
    for _ in range(rounds):
        probe(store, writers)
    seconds = round(time.monotonic() - started, 3)
    record = {"registry": store.uri, "rounds": rounds, "writers": writers, "seconds": seconds, "safe": True}
    emit(f"{store.uri} is safe: in {counted(rounds, 'race')} of {writers} writers one won each time", record, as_json)


def _print_version(version: Version, manifest: Manifest) -> None:
    """Print a version's facts, metrics and files."""
    size = sum(file.bytes for file in manifest.files)
    click.echo(
        f"{version}, published {version.published_at}, {counted(len(manifest.files), 'file')}, {size / 1e6:.1f} MB"
    )
    click.echo(f"manifest sha256 {version.manifest}")
    if origin := version.copied_from:
        click.echo(f"copied from {origin.said(version.name)}")
    if manifest.description:
        click.echo(manifest.description)
    if any(file.path.startswith("adapter/") for file in manifest.files):
        click.echo("adapter/ holds the adapter beside the model: README.md says how to load it over the base")
    for title, columns, rows in (
        (
            "metrics on the test split",
            ["metric", "value"],
            [[k, UNDEFINED if v is None else f"{v:.4f}"] for k, v in manifest.metrics.items()],
        ),
        ("lineage", ["what", "value"], list(_flat(manifest.lineage))),
        ("files", ["path", "MB", "sha256"], [[f.path, f"{f.bytes / 1e6:.2f}", f.sha256[:12]] for f in manifest.files]),
    ):
        emit(table(columns, rows, title), {}, as_json=False)


def _flat(tree: Any, path: str = "") -> Iterator[list[str]]:
    """Yield the leaves of the lineage but for what is long: --json shows the recipe and what the rows look like."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in ("recipe", "profile"):
                yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield [path, _said(tree)]


def _said(value: Any) -> str:
    """Write a leaf of the lineage: lists with commas, of objects their number alone, and the rest as JSON does."""
    if not isinstance(value, list):
        return value if isinstance(value, str) else "none" if value is None else json.dumps(value)
    members = cast("list[Any]", value)
    if any(isinstance(member, dict) for member in members):
        return f"{len(members)}; --json shows them"
    return ", ".join(map(_said, members)) or "none"
