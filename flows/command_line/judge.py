"""`reglage judge`: answers of two models to the same prompts, compared by a judge."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from pydantic import TypeAdapter, ValidationError

from flows.command_line.console import UserPath, emit, json_option, stdout_console
from flows.command_line.quiet import quiet_libraries
from flows.command_line.registry_options import registry_options
from flows.models.places import called, check_named_once, model_folder
from ftlib.data.cleaning import clean
from ftlib.errors import DataError, RecipeError
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.judges import Judge
from ftlib.evaluation.judges.base import JudgeBase, Pair
from ftlib.evaluation.judges.comparing import Compared, compare
from ftlib.storage import Place
from ftlib.urls import redacted
from ftlib.wording import these
from ftlib.yaml_text import read_value

JUDGES: TypeAdapter[JudgeBase] = TypeAdapter(Judge)


@click.command()
@click.argument("models", nargs=2, metavar="MODEL MODEL")
@click.argument("prompts", type=UserPath(exists=True, dir_okay=False), metavar="PROMPTS.jsonl")
@click.option(
    "--by",
    required=True,
    metavar="JUDGE",
    help="As YAML, or a file of it: {kind: endpoint, url: ..., model: ...}, {kind: model, model: {path: ...}}, "
    "{kind: reward, reward: {kind: regex, pattern: ...}}.",
)
@click.option("--prompt", default="prompt", show_default=True, metavar="COLUMN", help="What is asked.")
@click.option("--reference", metavar="COLUMN", help="The right answer, for a checker that needs one.")
@click.option("--answers", nargs=2, metavar="COLUMN COLUMN", help="Answers that are there, instead of writing them.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first rows.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=128, show_default=True, help="Of an answer.")
@click.option("--resamples", type=click.IntRange(min=100), default=1000, show_default=True, help="Of the bootstrap.")
@click.option(
    "--confidence",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Of the interval.",
)
@registry_options
@json_option
def judge(
    models: tuple[str, str],
    prompts: Path,
    by: str,
    prompt: str,
    reference: str | None,
    answers: tuple[str, str] | None,
    limit: int | None,
    max_new_tokens: int,
    resamples: int,
    confidence: float,
    registry: Place,
    as_json: bool,
) -> None:
    """Compare the answers of two models: folders, or versions NAME@NUMBER or NAME@ALIAS.

    Each pair is shown to the judge in both orders. A win rate of 0.5 is neither better nor worse; the sign test says
    how often chance alone would lead so far. Verdicts are kept in the user's cache: no question is paid for twice.
    """
    quiet_libraries()
    asked = _judge(by)
    check_named_once("judge", models)
    rows = list(_rows(prompts, [column for column in (prompt, reference, *(answers or ())) if column], limit))
    if answers:
        ours, theirs = ([row[column] for row in rows] for column in answers)
    else:
        ours, theirs = (_written(model, [row[prompt] for row in rows], max_new_tokens, registry) for model in models)
    pairs = [
        Pair(clean(row[prompt], keep_lines=True), one, other, row[reference] if reference else None)
        for row, one, other in zip(rows, ours, theirs, strict=True)
    ]
    compared = compare(asked, pairs, Resampling(resamples, confidence, seed=0))
    names: dict[str, Any] = {"ours": models[0], "theirs": models[1], "by": json.loads(asked.model_dump_json())}
    emit(lambda: _print(models, compared), {**names, **compared.model_dump(mode="json")}, as_json)


def _judge(by: str) -> JudgeBase:
    """Read a judge, as YAML or of a file. Raises RecipeError, in one line, without what may be secret."""
    try:
        text = Path(by).read_text("utf-8") if not by.lstrip().startswith("{") else by
        return JUDGES.validate_python(read_value(text))
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "kind"
        raise RecipeError(
            f"--by: {where}: {redacted(str(first['msg']).removeprefix('Value error, '))}; see docs/judge.md"
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise RecipeError(
            f"--by: {redacted(by)!r} is neither a judge in braces nor a file that holds one; give {{kind: ...}}, see "
            "docs/judge.md"
        ) from error


def _rows(path: Path, columns: Sequence[str], limit: int | None) -> Iterator[dict[str, str]]:
    """Yield the columns of each row. Raises DataError for a line that lacks one, or a file without rows."""
    count = 0
    with path.open(encoding="utf-8", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            if limit is not None and count == limit:
                return
            try:
                row: Any = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise DataError(f"{path} line {number}: is no JSON object; give one with {these(columns)} on each line")
            texts = {column: text for column in columns if isinstance(text := row.get(column), str)}
            if absent := [column for column in columns if column not in texts]:
                raise DataError(
                    f"{path} line {number}: has no text {these(absent)}; it has {these(map(str, row))}: name other "
                    "columns by --prompt, --answers and --reference"
                )
            yield texts
            count += 1
    if not count:
        raise DataError(f"{path} has no rows; give JSON objects, one a line")


def _written(model: str, prompts: Sequence[str], most: int, registry: Place) -> list[str]:
    """Return what a model writes after each prompt: as its version's recipe says, or stock."""
    from ftlib.published.writing import written_answers

    folder = model_folder(model, registry)
    with called(model, folder):
        return written_answers(folder, prompts, most)


def _print(models: tuple[str, str], compared: Compared) -> None:
    console = stdout_console()
    lines = [compared.line(*models)]
    if compared.turned:
        lines.append(
            f"{compared.turned} verdicts turned with the order; the answer shown first was preferred "
            f"{compared.first_place:.0%} of the time"
        )
    if compared.unread:
        lines.append(f"{compared.unread} replies said neither A, B nor C, and count as ties")
    lines.append(f"cost: {compared.cost.line()}")
    for line in lines:
        console.print(line, soft_wrap=True)
