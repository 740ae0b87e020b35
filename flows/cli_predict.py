"""`reglage predict`: a published version's answers to lines of text."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from flows.console import emit, json_option
from flows.registry_view import called, facts, key_option, open_registry, registry_options, version_argument
from ftlib.config import user_path
from ftlib.errors import DataError
from ftlib.model_registry.signing import PublicKey


@click.command()
@version_argument
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True)
@key_option
@registry_options
@json_option
def predict(
    version: str, batch_size: int, key: PublicKey | None, uri: str, endpoint_url: str | None, as_json: bool
) -> None:
    """Answer the lines on stdin with a published version, a line each, tab-separated.

    A label and its probability; of a multi-label model, each label that applies and its probability, or nothing; of a
    regression, the number; of a tagger, the entities.

    Texts are cleaned and cut as in training. The version is pulled once and kept, checked, in the user's cache.
    """
    opened = open_registry(uri, endpoint_url)
    found = opened.resolve(version)
    folder = _cache() / found.manifest
    opened.pull(found, folder, key)

    from ftlib.inference import predict as answer

    with called(str(found), folder):
        predictions = answer(folder, _lines(sys.stdin.buffer), batch_size)
        if as_json:
            answers = [prediction.model_dump(mode="json") for prediction in predictions]
            emit(answers, {**facts(found), "predictions": answers}, as_json)
            return
        for prediction in predictions:
            click.echo(prediction.line())


def _cache() -> Path:
    return user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "reglage" / "versions"


def _lines(stream: BinaryIO) -> Iterator[str]:
    """Yield decoded lines as they come, so that memory does not grow with the input."""
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode().rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"stdin line {number} is not UTF-8 (byte {error.start}); convert it first") from error
