"""`reglage init`: a recipe to begin with."""

from __future__ import annotations

from pathlib import Path

import click

from flows.command_line.console import UserPath, emit, json_option


@click.command()
@click.option("--example", metavar="NAME", help="Write this recipe of Réglage's own, as quickstart, to recipes/.")
@click.option(
    "--dir",
    "folder",
    type=UserPath(file_okay=False),
    default=Path(),
    help="The project's folder; the current one by default.",
)
@json_option
def init(example: str | None, folder: Path, as_json: bool) -> None:
    """Write a recipe to begin with. No file that is there already is written over."""
    if example is None:
        raise click.UsageError("nothing to write; give --example NAME")
    from ftlib.recipe import examples

    file = examples.example(example)
    written = write_new(folder / "recipes" / file.name, file.read_bytes())
    said = [f"wrote {written}", *examples.headline(file), f"next: reglage check {written}"]
    emit("\n".join(said), {"written": [str(written)]}, as_json)


def write_new(path: Path, content: bytes) -> Path:
    """Write a file that is not there yet, and return its path. Raises StorageError for one that is, or any refusal."""
    from ftlib.errors import StorageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as stream:
            stream.write(content)
    except FileExistsError:
        raise StorageError(f"{path} is there already, and stays as it is; remove it or give another --dir") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; give another --dir") from error
    return path
