"""`reglage look`: rows as the model sees them, with what it is taught of each, before anything trains."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from flows.command_line.console import emit, json_option, stdout_console
from flows.command_line.options import recipe_argument, set_option, work_option
from flows.run.jobs import ingest_job, preprocess_job
from flows.run.models_beside import bases
from ftlib.config import Config, Split
from ftlib.data.assignment import clean_example
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.forgotten import read_requests
from ftlib.data.inputs import INPUT_IDS, answer_input
from ftlib.data.personal_data import said
from ftlib.data.prepared import SPLITS, split_file
from ftlib.data.row_targets import NO_WORD, Target
from ftlib.data.rows import Example
from ftlib.data.snapshot import read_snapshot
from ftlib.data.sources.pins import pin
from ftlib.data.supervision import learnt_places
from ftlib.errors import DataError, RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.kinds.table.row import Kind
from ftlib.models.adapter import find_any
from ftlib.recipe.recipe import Recipe
from ftlib.stages.ingest import ingest
from ftlib.stages.preprocess import preprocess
from ftlib.wording import counted, some
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from rich.text import Text


class Part(Config):
    """Neighbouring tokens that are learnt alike."""

    text: str
    learnt: bool
    special: bool
    """Whether it is a special token, as it is spelt."""
    tag: str = ""
    """What a word is taught, where words are taught apart."""


class Seen(Config):
    """A row as the model sees it."""

    row: str
    """Its id; with `-1` the second piece of it, where a format cuts long texts."""
    tokens: int
    learnt: int
    truncated: bool
    """Whether it was too long, and lost tokens or turns."""
    parts: tuple[Part, ...]
    learns: str = ""
    """What is learnt of the row as a whole."""


@click.command()
@recipe_argument
@set_option
@work_option
@click.option("--rows", type=click.IntRange(min=1), default=3, show_default=True, help="How many.")
@click.option("--dataset", help="Which of the recipe's; by default the one that the last phase trains on.")
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True, help="Which rows.")
@click.option("--row", "ids", multiple=True, metavar="ID", help="This row, as lists name it; repeatable.")
@json_option
def look(
    recipe: Path,
    overrides: tuple[str, ...],
    work: str,
    rows: int,
    dataset: str | None,
    split: Split,
    ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show rows as the model sees them: its special tokens, what is learnt, and what was cut.

    What is learnt is green; where there is no colour, it stands between ⟦ and ⟧. Rows are ingested and prepared first,
    as a run would do it, and are found there again by the run.
    """
    from flows.command_line.quiet import quiet_libraries
    from ftlib.recipe.file import load_recipe

    quiet_libraries()
    loaded = load_recipe(recipe, overrides)
    name = dataset or next(name for name, one in loaded.datasets.items() if one == loaded.published_dataset())
    raw, data, seen = look_at(loaded, loaded.work_place(work), name, split, rows, ids)
    notes = [*data.audit.notes()] if data.audit.rows else []
    notes += [f"personal data: {line}" for line in said(raw.personal_data or {})]
    record = {"dataset": name, "split": split, "rows": [one.model_dump(mode="json") for one in seen], "notes": notes}
    emit(lambda: _print(name, split, seen, notes), record, as_json)


def look_at(
    recipe: Recipe, work: Workspace, name: str, split: Split, rows: int, ids: Sequence[str] = ()
) -> tuple[RawDataset, PreparedDataset, list[Seen]]:
    """Prepare a dataset and return the first rows of a split, or those of these ids, in the split's order.

    Raises RecipeError for rows that are no text, DataError for none at all, or an id that the split has not.
    """
    if name not in recipe.datasets:
        raise RecipeError(f"--dataset: {name!r} is not a dataset; there are {', '.join(sorted(recipe.datasets))}")
    dataset = recipe.datasets[name]
    kind = KINDS[dataset.format.yields]
    if kind.modality != "text":
        raise RecipeError(f"datasets.{name}: look shows rows of text, these are {kind.modality}; the report shows them")
    model = find_any(recipe.model, bases(recipe, work))
    guards = recipe.evaluation_datasets() if name in recipe.training_datasets() else ()
    forgotten = read_requests(work)
    raw = {
        one: ingest(ingest_job(recipe, one, pin(recipe.datasets[one].source, work), forgotten), work)
        for one in dict.fromkeys((name, *guards))
    }
    data = preprocess(preprocess_job(recipe, name, raw, model), work)
    from ftlib.kinds.loading import load_processor

    processor = load_processor(model.folder)
    pieces = [*_chosen(_pieces(split_file(data.path, split)), rows, ids)]
    if lacking := {*ids} - {wanted for wanted in ids for row_id, *_ in pieces if _is(row_id, wanted)}:
        raise DataError(
            f"datasets.{name}: the {split} split has no row {some(sorted(lacking))}; give its --split, and another "
            "--dataset if it is of that"
        )
    if not pieces:
        raise DataError(f"datasets.{name}: the {split} split has no rows; look at another --split")
    texts = _examples(raw[name], {row_id.partition("-")[0] for row_id, *_ in pieces})
    cut = {
        row_id: dataset.format.encode([example], processor)[0].truncated
        for row_id, values in texts
        if isinstance(example := clean_example(dataset, values), Example)
    }
    tokenizer: Any = processor.tokenizer
    return (
        raw[name],
        data,
        [
            Seen(
                row=row_id,
                tokens=sum(len(inputs[name]) for name in {INPUT_IDS, answer_input(inputs)}),
                learnt=_learnt_tokens(kind, inputs, supervised, target),
                truncated=cut.get(row_id.partition("-")[0], False),
                parts=tuple(_of_row(tokenizer, kind, inputs, supervised, target)),
                learns=_learns(kind, target),
            )
            for row_id, inputs, supervised, target in pieces
        ],
    )


_Piece = tuple[str, Mapping[str, list[int]], int, Target]


def _chosen(pieces: Iterator[_Piece], rows: int, ids: Sequence[str]) -> Iterator[_Piece]:
    """Yield the first rows, or all pieces of those that are asked for."""
    if not ids:
        yield from itertools.islice(pieces, rows)
        return
    yield from (piece for piece in pieces if any(_is(piece[0], wanted) for wanted in ids))


def _is(row_id: str, wanted: str) -> bool:
    """Say whether a row is the one that is asked for, or a piece of it."""
    return row_id == wanted or row_id.startswith(f"{wanted}-")


def _pieces(path: Path) -> Iterator[_Piece]:
    """Yield a split's rows: id, inputs by name (and more columns), supervised, target."""
    import pyarrow as pa

    file = pa.ipc.open_file(pa.memory_map(str(path)))
    for i in range(file.num_record_batches):
        for row in file.get_batch(i).to_pylist():
            yield row["row_id"], row, row["supervised"], row.get("target")


def _examples(raw: RawDataset, wanted: set[str]) -> Iterator[tuple[str, Any]]:
    """Yield the snapshot's rows of these ids, as soon as they are found."""
    left = {*wanted}
    for row_id, values in read_snapshot(raw.path / "rows.parquet"):
        if row_id in left:
            yield row_id, values
            left.remove(row_id)
            if not left:
                return


def _of_row(
    tokenizer: Any, kind: Kind, inputs: Mapping[str, list[int]], supervised: int, target: Target
) -> Iterator[Part]:
    """Yield the parts of a row, after those of what its encoder reads where it has a decoder too."""
    ids = inputs[name := answer_input(inputs)]
    if name != INPUT_IDS:
        source = inputs[INPUT_IDS]
        yield from _parts(tokenizer, source, [None] * len(source))
        yield Part(text=" → ", learnt=False, special=False)
    learnt = _learnt(kind, target, supervised, len(ids))
    if (other := _other(target)) is not None:
        yield from _parts(tokenizer, ids[:other], learnt[:other])
        yield Part(text=" ≻ ", learnt=False, special=False)
        ids, learnt = ids[other:], learnt[other:]
    yield from _parts(tokenizer, ids, learnt)


def _other(target: Target) -> int | None:
    """Return where the other of two compared sequences begins, its prompt included; None for a row of one."""
    if isinstance(target, dict) and "rejected" in target:
        return target["places"][1]
    return target["border"] if isinstance(target, dict) and "border" in target else None


def _learnt(kind: Kind, target: Target, supervised: int, length: int) -> list[str | None]:
    """Return for every token what it is taught: a tag, nothing but to be predicted (an empty text), or None."""
    taught: list[str | None] = [None] * length
    if kind.language:
        for first, end in learnt_places(target, supervised, length):
            taught[first:end] = [""] * (end - first)
    elif kind.vocabulary and isinstance(target, list | tuple):  # each token's word, any of which may be hidden
        taught = [None if word == NO_WORD else "" for word in target[:length]]
    elif isinstance(target, dict) and "start" in target:
        taught[target["start"] : target["end"] + 1] = [""] * (target["end"] + 1 - target["start"])
    elif kind.answers_by_token and not kind.pools and isinstance(target, list | tuple):
        taught = [*cast("Sequence[str | None]", target)[:length]]
    return taught


def _learnt_tokens(kind: Kind, inputs: Mapping[str, list[int]], supervised: int, target: Target) -> int:
    if not kind.language:
        return supervised
    return sum(end - first for first, end in learnt_places(target, supervised, len(inputs[answer_input(inputs)])))


def _learns(kind: Kind, target: Target) -> str:
    if isinstance(target, dict) and "wanted" in target:
        return "thumb up" if target["wanted"] else "thumb down"
    if isinstance(target, dict) and "margin" in target:
        return "the first is better" + (f", by {target['margin']:g}" if target["margin"] else "")
    if kind.language or kind.answers_by_token:
        return ""
    return ", ".join(map(str, target)) if isinstance(target, list | tuple) else str(target)


def _parts(tokenizer: Any, ids: Sequence[int], taught: Sequence[str | None]) -> Iterator[Part]:
    """Yield neighbours that are learnt alike, each special token apart."""
    special = {*tokenizer.all_special_ids}
    special |= {id for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    keys = [(tag, i if id in special or tag else -1) for i, (id, tag) in enumerate(zip(ids, taught, strict=True))]
    start, before = 0, 0
    for (tag, _), group in itertools.groupby(keys):
        end = start + len([*group])
        # What they add to the text before them: alone, many tokenizers leave out a first blank.
        text: str = tokenizer.decode(ids[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        yield Part(text=text[before:], learnt=tag is not None, special=ids[start] in special, tag=tag or "")
        start, before = end, len(text)


def _print(name: str, split: Split, seen: Sequence[Seen], notes: Sequence[str]) -> None:
    """Print every row, in colour where there is some."""
    from rich.text import Text

    console = stdout_console()
    plain = not console.is_terminal or console.no_color
    for i, row in enumerate(seen, start=1):
        cut = ", cut: it was too long" if row.truncated else ""
        head = f"{name} {split} {i} · row {row.row[:12]} · {counted(row.tokens, 'token')}, {row.learnt:,} learnt{cut}"
        console.print(Text(head, style="" if plain else "bold"), soft_wrap=True)
        console.print(_marked(row.parts) if plain else _coloured(row.parts), soft_wrap=True)
        if row.learns:
            learns = f"⟦{row.learns}⟧" if plain else row.learns
            console.print(Text("learns: ").append(learns, style="" if plain else "green"), soft_wrap=True)
        console.print()
    for words in notes:
        console.print(Text(words), soft_wrap=True)


def _marked(parts: Sequence[Part]) -> Text:
    """Return parts without colour: what is learnt together stands between marks."""
    from rich.text import Text

    text = Text()
    for (learnt, tag), group in itertools.groupby(parts, key=lambda part: (part.learnt, part.tag)):
        shown = "".join(_shown(part) for part in group)
        text.append(f"⟦{shown}{tag and f'/{tag}'}⟧" if learnt else shown)
    return text


def _coloured(parts: Sequence[Part]) -> Text:
    from rich.text import Text

    text = Text()
    for part in parts:
        style = "green" if part.learnt else "dim cyan" if part.special else ""
        text.append(_shown(part) + (part.tag and f"/{part.tag}"), style=style)
    return text


def _shown(part: Part) -> str:
    """Return a part's text with its line breaks to be seen."""
    return part.text.replace("\n", "⏎\n")
