"""What the commands about published versions share: where the registry is, and how versions are shown."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from ftlib.registry import ModelRegistry
from ftlib.registry.signing import PublicKey
from ftlib.registry.versions import Version
from ftlib.storage import Place, open_store

UNBROKEN = {"entry", "version", "at", "published"}
"""Columns of short words, which stay on one line where others give way."""


class PublicKeyFile(click.ParamType[PublicKey]):
    """A path on the command line, read as a public key."""

    name = "FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PublicKey:
        """Read it."""
        return value if isinstance(value, PublicKey) else PublicKey(Path(value))


version_argument = click.argument("version", metavar="NAME[@NUMBER|@ALIAS]")

key_option = click.option(
    "--key",
    type=PublicKeyFile(),
    envvar="REGLAGE_PUBLIC_KEY",
    help="A public key (PEM): refuse a version that it did not sign.",
)


def registry_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that say where the registry is; the command gets one place, `registry`."""

    @wraps(command)
    def placed(*args: Any, registry_uri: str, endpoint_url: str | None, **options: Any) -> None:
        command(*args, registry=Place.parse(registry_uri, endpoint_url), **options)

    endpoint = click.option(
        "--endpoint-url", envvar="AWS_ENDPOINT_URL", metavar="URL", help="The S3 server, if it is not AWS."
    )
    return registry_option(endpoint(placed))


registry_option = click.option(
    "--registry",
    "registry_uri",
    envvar="REGLAGE_REGISTRY",
    default="registry",
    show_default=True,
    metavar="URI",
    help="A folder, or s3://bucket/prefix; also gs:// and abfs://.",
)


def open_registry(registry: Place) -> ModelRegistry:
    """Open the registry a command was given."""
    return ModelRegistry(open_store(registry))


def aliases_of(opened: ModelRegistry, model: str) -> dict[str, int]:
    """Return the version each alias of a model means."""
    entries = [opened.alias(model, alias) for alias in opened.aliases(model)]
    return {entry.alias: entry.version for entry in entries if entry}


def facts(version: Version) -> dict[str, object]:
    """Return a version as JSON."""
    return {
        "name": version.name,
        "version": version.version,
        "manifest_sha256": version.manifest,
        "published_at": version.published_at,
        **({"copied_from": version.copied_from.model_dump(mode="json")} if version.copied_from else {}),
    }


def table(columns: list[str], rows: list[list[str]], title: str | None = None) -> Any:
    """Return a table for `emit`. Nothing in it is cut off, however narrow: a digest or a date in part says nothing."""
    from rich import box
    from rich.table import Column, Table

    shown = (Column(name, overflow="fold", no_wrap=name in UNBROKEN) for name in columns)
    table = Table(*shown, title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for row in rows:
        table.add_row(*row)
    return table
