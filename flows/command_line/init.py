"""`reglage init`: a recipe to begin with, for some files or from those that came with Réglage."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from flows.command_line.console import UserPath, emit, json_option

_IGNORED = "/work/\n/registry/\n/rows/\n/models/\n"
_README = """# {name}

The recipe is recipes/{name}.yaml; rows/ and models/ are what it reads, work/ and registry/ what a run makes.
Begin with: {first}
Then: reglage run recipes/{name}.yaml, and echo "{asked}" | reglage predict {name}@1
"""


@click.command()
@click.argument("files", nargs=-1, type=UserPath())
@click.option("--name", help="What the recipe and its model are called; by default as the first file.")
@click.option(
    "--dir",
    "folder",
    type=UserPath(file_okay=False),
    default=Path(),
    help="The project's folder; the current one by default.",
)
@click.option("--model", metavar="PATH", help="The base model, if not the one that is proposed for such rows.")
@click.option("--example", metavar="NAME", help="Instead: write a recipe of Réglage's own, as quickstart.")
@json_option
def init(
    files: tuple[Path, ...], name: str | None, folder: Path, model: str | None, example: str | None, as_json: bool
) -> None:
    """Write a recipe for FILES (jsonl, csv, parquet, COCO's json, or a folder of rows or images), and a project for it.

    A sample is looked at, and what is guessed of it says why in the recipe: format, columns, label, split, model and
    metrics. No file that is there already is written over.
    """
    if (example is None) == (not files):
        raise click.UsageError("give FILES, or --example NAME")
    if example is not None:
        if name or model:
            raise click.UsageError("an example has its own name and model; give --example alone, or with --dir")
        return _example(example, folder, as_json)
    _draft(files, name, folder, model, as_json)


def _example(example: str, folder: Path, as_json: bool) -> None:
    from ftlib.recipe import examples

    file = examples.example(example)
    written = write_new(folder / "recipes" / file.name, file.read_text(encoding="utf-8"))
    said = [f"wrote {written}", *examples.headline(file), f"next: reglage check {written}"]
    emit("\n".join(said), {"written": [str(written)]}, as_json)


def _draft(files: tuple[Path, ...], name: str | None, folder: Path, model: str | None, as_json: bool) -> None:
    """Guess, write the recipe first, so that nothing else is written where it is there already, and say why."""
    from ftlib.data.guess import guess
    from ftlib.kinds.kind import KINDS
    from ftlib.recipe.draft import draft, first_commands

    called = _name(name or _stem(files[0]), given=name is not None)
    guessed = guess(files, called, folder)
    recipe = write_new(folder / "recipes" / f"{called}.yaml", draft(guessed, called, model))
    written = [recipe, *_links(guessed.links, folder / "rows")]
    here = recipe if folder == Path() else f"recipes/{called}.yaml"
    texts = KINDS[guessed.kind].modality == "text"  # `look` shows no images; the report does
    looks = [f"reglage {command} {{}}" for command in (("check", "look") if texts else ("check",))]
    first = " && ".join(looks).replace("{}", f"recipes/{called}.yaml")
    readme = _README.format(name=called, first=first, asked="a text" if texts else "image.png")
    for path, content in ((".gitignore", _IGNORED), ("README.md", readme)):
        if not (folder / path).exists():
            written.append(write_new(folder / path, content))
    next_ = [*([] if folder == Path() else [f"cd {folder}"]), *first_commands(guessed, model)]
    said = [
        f"looked at {guessed.looked}",
        *_lines("format", ["feedback" if guessed.log else str(guessed.format["kind"]), *guessed.why_format]),
        *_lines("dataset", [f"{rows.gives}: {rows.told}" for rows in guessed.log]),
        *_lines("split", [str(guessed.split.get("by", "random")), *guessed.why_split]),
        *_lines("wrote", [str(path) for path in written]),
        *_lines("next", [*next_, *(look.format(here) for look in (*looks, "reglage run {}"))]),
    ]
    facts = guessed.model_dump(mode="json", exclude={"links"})
    emit("\n".join(said), {"written": [str(path) for path in written], **facts}, as_json)


def _lines(what: str, said: Sequence[str]) -> list[str]:
    """Write lines about one thing, which the first of them names."""
    return [f"{what if i == 0 else '':<11}{line}" for i, line in enumerate(said)]


def _stem(file: Path) -> str:
    stem = file.absolute().name.lower()
    for suffix in (".gz", ".zst", ".bz2", ".xz", ".jsonl", ".ndjson", ".json", ".csv", ".parquet"):
        stem = stem.removesuffix(suffix)
    return re.sub(r"[^a-z0-9_-]+", "-", stem).strip("-_")[:60] or "rows"


def _name(name: str, *, given: bool) -> str:
    """Return the name. Raises RecipeError for one that is none, or says what to give where a file's name makes none."""
    from pydantic import TypeAdapter, ValidationError

    from ftlib.config import Name
    from ftlib.errors import RecipeError

    try:
        return TypeAdapter[str](Name).validate_python(name)
    except ValidationError:
        what = "--name is" if given else "the file's name makes"
        raise RecipeError(
            f"{what} {name!r}; a name is up to 63 of a-z, 0-9, - and _, and begins with a letter or digit; give --name"
        ) from None


def _links(links: dict[str, str], folder: Path) -> list[Path]:
    """Point at files from one folder, since no path of a source names just these."""
    from ftlib.errors import StorageError

    for name, target in links.items():
        try:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(target)
        except OSError as error:
            raise StorageError(
                f"{folder / name} cannot be made: {error.strerror}; move the files into one folder, and give that"
            ) from error
    return list(dict.fromkeys((folder / name).parent for name in links))


def write_new(path: Path, content: str) -> Path:
    """Write a file that is not there yet, and return its path. Raises StorageError for one that is, or any refusal."""
    from ftlib.errors import StorageError

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(content)
    except FileExistsError:
        raise StorageError(f"{path} is there already, and stays as it is; remove it, or give another --dir") from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; give another --dir") from error
    return path
