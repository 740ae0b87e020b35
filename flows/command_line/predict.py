"""`reglage predict`: a published version's answers to lines of text, or to images."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from flows.command_line.console import UserPath, emit, json_option
from flows.command_line.options import base_option
from flows.command_line.registry_options import facts, key_option, open_registry, registry_options
from flows.models.places import bases, called
from ftlib.config import user_path
from ftlib.data.row_files.first_bytes import wide_line
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.kinds.predictions import Unasked
from ftlib.models.folder import output_folder
from ftlib.published.drawing import GUIDANCE, STEPS, Drawing
from ftlib.published.predict import draws, reads_files
from ftlib.published.predict import predict as answer
from ftlib.registry.signing import PublicKey
from ftlib.storage import Place
from ftlib.storage.node_cache import is_output
from ftlib.workspace import make_cache, user_cache


@click.command()
@click.argument("version", metavar="NAME[@NUMBER|@ALIAS]|./FOLDER")
@click.argument("files", metavar="[IMAGE|CAPTION]...", nargs=-1)
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Rows at once.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    help="Of what writes: how long an answer may be; by default as in the version's evaluations, or 256.",
)
@click.option(
    "--num-beams",
    type=click.IntRange(min=1, max=64),
    help="Of what writes: beginnings of an answer it keeps; by default as in the version's evaluations.",
)
@click.option("--out", type=UserPath(file_okay=False), default=Path(), help="Of what draws: folder of the PNGs.")
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, help="Of what draws: the first image's; then counted up."
)
@click.option("--steps", type=click.IntRange(min=1), default=STEPS, show_default=True, help="Of what draws.")
@click.option(
    "--guidance",
    type=click.FloatRange(min=0.0, max=100.0),
    default=GUIDANCE,
    show_default=True,
    help="Of what draws: how far captions are followed.",
)
@click.option("--task", help="Which task of a version that has several.")
@key_option
@base_option
@registry_options
@json_option
def predict(
    version: str,
    files: tuple[str, ...],
    batch_size: int,
    max_new_tokens: int | None,
    num_beams: int | None,
    out: Path,
    seed: int,
    steps: int,
    guidance: float,
    task: str | None,
    key: PublicKey | None,
    given: tuple[Path, ...],
    registry: Place,
    as_json: bool,
) -> None:
    """Answer the lines on stdin with a published version, a line each, tab-separated; or images, by their files.

    A label and its probability; of a multi-label model, each label that applies and its probability, or nothing; of a
    regression, the number; of a tagger, the entities. A line to a model of chats is what the user says, or a JSON list
    of all turns so far; the answer is what the assistant says next, with its line breaks escaped. So is what a model
    writes to a source or a prompt.

    A model of images is asked about the files given, or whose paths are the lines on stdin: a line begins with the
    file. One that is no image is said on stderr, the others are answered, and the command ends with 1.

    A model that draws is given captions, or the lines on stdin: it writes a PNG each, and a line with the file, and the
    seed, steps and guidance that draw the same image again.

    Texts are cleaned and cut as in training, images decoded, resized and cropped. The version is pulled once and kept,
    checked, in the user's cache. ./FOLDER is one that was pulled or exported before.
    """
    name, folder, about = _located(version, key, registry)
    with called(name, folder):
        if files and not reads_files(folder) and not draws(folder):
            raise RecipeError(f"{name} answers texts, one a line on stdin, got the file {files[0]!r}; use < {files[0]}")
        predictions = answer(
            folder,
            files or _lines(sys.stdin.buffer),
            batch_size,
            bases(registry, given),
            max_new_tokens,
            num_beams,
            task,
            Drawing(out, seed, steps, guidance),
        )
        answers: list[dict[str, object]] = []
        unasked = 0
        for prediction in predictions:
            unasked += isinstance(prediction, Unasked)
            if isinstance(prediction, Unasked):
                click.echo(f"reglage: {prediction.line()}", err=True)
            elif not as_json:
                click.echo(prediction.line())
            if as_json:
                answers.append(prediction.model_dump(mode="json"))
        if as_json:
            emit(answers, {**about, "predictions": answers}, as_json)
    if unasked:
        click.get_current_context().exit(1)


def _located(version: str, key: PublicKey | None, registry: Place) -> tuple[str, Path, dict[str, object]]:
    """Return what answers, its folder, and what --json says of it. A bare word is a model's name, never a folder's."""
    if "/" in version:
        folder = output_folder(version) if is_output(version) else user_path(version)
        if not folder.is_dir():
            raise ModelError(f"{version!r} is no folder here; give one that was pulled, or a version as name@3")
        if key:
            raise RecipeError(f"--key: {version} is a folder, whose signature is in the registry; give a version")
        return version, folder, {"folder": str(folder.absolute())}
    opened = open_registry(registry)
    resolved = opened.resolve(version)
    folder = make_cache(user_cache() / "versions") / resolved.manifest
    opened.pull(resolved, folder, key)
    return str(resolved), folder, facts(resolved)


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield decoded lines as they come, so that memory does not grow with the input."""
    for number, line in enumerate(stream, start=1):
        if encoding := wide_line(line):
            raise DataError(
                f"stdin line {number} is {encoding}, allowed is UTF-8; convert it: iconv -f {encoding} -t UTF-8"
            )
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"stdin line {number} is not UTF-8 (byte {error.start}); convert it first") from error
