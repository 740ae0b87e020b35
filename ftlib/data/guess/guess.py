"""From files to what a dataset of a recipe says."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ftlib.data.formats import Format, LabeledImage
from ftlib.data.guess.annotated import guess_annotated
from ftlib.data.guess.columns import Column, columns
from ftlib.data.guess.feedback import guess_log
from ftlib.data.guess.formats import Proposal, proposals
from ftlib.data.guess.record import Guess, written
from ftlib.data.guess.sample import LEAST, Sample, sample
from ftlib.data.guess.splits import propose_split
from ftlib.data.rows import Dropped, Example, Value
from ftlib.data.sources import Files, ImageFolder
from ftlib.data.sources.feedback import LOGGED
from ftlib.errors import DataError
from ftlib.wording import counted, some

_HELD = {"test", "dev", "val", "valid", "validation", "eval", "heldout", "holdout"}
_READ = 0.6
"""The share of a sample's rows that a format must read to be proposed."""
_LOOKED = 5_000
"""Images whose folders are looked at; of so many of them as `_SIZED`, how large they are."""
_SIZED = 40


def guess(given: Sequence[Path], name: str, project: Path) -> Guess:
    """Guess what files hold: jsonl, csv and parquet, files or folders of them, one folder of images, or one COCO file.

    Rows that are a log of feedback make several datasets, see `Guess.log`.

    Paths are written from the project's folder where they lie in it, else in full. Where several files are no folder
    and have no pattern of their own, the source is `rows/<name>`, with links. Raises DataError for files that are not
    there, not readable, too few rows, or columns that nothing fits, and says which columns there are.
    """
    for path in given:
        if re.match(r"\w{2,}:/", str(path)):  # a Path has one slash left
            raise DataError(
                f"{path}: init reads files of this machine; copy one here, and change the source's path then"
            )
    if len(given) == 1 and given[0].suffix == ".json" and given[0].is_file():
        return guess_annotated(given[0].expanduser(), project)
    if len(given) == 1 and given[0].is_dir() and not _has_rows(given[0]):
        return _images(given[0], project)
    files = list(dict.fromkeys(file for path in given for file in _files(path)))
    if log := _log(given, files, name, project):
        return log
    trained, held = _apart(files)
    source, links = _source(given if not held else trained, trained, name, project)
    held_out, more = _source(held, held, f"{name}-held-out", project) if held else ({}, {})
    looked = sample(trained)
    sample(held or trained)  # refused where a test's rows are too few, or of another table
    table = columns(looked.rows)
    proposal, layout, rows, examples = _format(table, looked, files)
    used = frozenset(layout.columns) - ({str(proposal.format.get("context"))} & {c.name for c in table})
    labels = layout.yields == "labeled"
    counts = Counter(one.label for one in examples if labels)
    split = propose_split(table, rows, examples, used, labels=labels)
    fit = "all of them fit" if len(rows) == len(looked.rows) else f"{len(rows):,} of them fit"
    texts = "".join(one.text[:200] for one in examples[:200])
    return Guess(
        kind=layout.yields,
        source=source,
        format=proposal.format,
        split=split.split,
        looked=f"{looked.described}, {fit}",
        why_format=proposal.reasons,
        why_split=(split.reason, *split.others),
        held_out=held_out,
        links={**links, **more},
        commonest=_commonest(counts),
        foreign=sum(ord(letter) > 0x24F for letter in texts) > 0.2 * max(len(texts), 1),
    )


def _log(given: Sequence[Path], files: Sequence[Path], name: str, project: Path) -> Guess | None:
    """Return what a feedback log gives; None for files that are none. Its lines may say different things."""
    if not all(file.name.lower().endswith(LOGGED) for file in files):
        return None
    looked = sample(files, table=False)
    source, links = _source(given, files, name, project)
    log = guess_log(columns(looked.rows), looked, source)
    return log and log.model_copy(update={"links": links})


def _format(
    table: Sequence[Column], looked: Sample, files: Sequence[Path]
) -> tuple[Proposal, Format, list[Mapping[str, Value]], list[Example]]:
    """Return the first format that reads most rows, those rows, and what it makes of them."""
    best: Counter[str] = Counter()
    for proposal in proposals(table):
        layout: Format = TypeAdapter[Format](Format).validate_python(proposal.format)
        made = [(row, layout.example(row)) for row in looked.rows]
        read = [(row, one) for row, one in made if isinstance(one, Example)]
        if len(read) >= max(_READ * len(made), LEAST):
            return proposal, layout, [row for row, _ in read], [one for _, one in read]
        best.update(one.reason for _, one in made if isinstance(one, Dropped))
    if len(table) == 1 and not table[0].is_text:
        problem = f"the one column, {table[0].name!r}, holds no texts"
    else:
        problem = f"no column holds texts, of {some([column.name for column in table], 12)}"
        problem = "nothing fits the columns " + some([column.name for column in table], 12) if best else problem
    counts = ", ".join(f"{reason}: {counted(count, 'row')}" for reason, count in best.most_common(3))
    why = f" ({counts})" if counts else ""
    raise DataError(
        f"{files[0]}: {problem}{why}; a table has a text and what is to be said of it, called text and label, score, "
        "labels, prompt and completion, or messages: rename columns, or begin with `reglage init --example local_files`"
    )


def _apart(files: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files to train on, and those whose names say that they are to test, if there are both."""
    held = [file for file in files if _HELD & {*re.findall(r"[a-z]+", file.stem.lower())}]
    trained = [file for file in files if file not in held]
    return (trained, held) if trained and held else ([*files], [])


def _files(path: Path) -> list[Path]:
    return [Path(file.uri) for file in Files(path=str(path)).list()]


def _has_rows(folder: Path) -> bool:
    source = Files(path=str(folder))
    return any(source.is_read(file.uri) for file in source.listing().files)


def _source(
    given: Sequence[Path], files: Sequence[Path], name: str, project: Path
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the source that reads just these files, and the links that it needs."""
    if len(given) == 1:
        folder = "/" if given[0].is_dir() else ""
        return {"kind": "files", "path": written(given[0], project) + folder}, {}
    common = Path(os.path.commonpath([file.parent.absolute() for file in files]))
    suffixes = {file.suffix for file in files}
    first, last = min(file.name for file in files), max(file.name for file in files)
    same = next((i for i, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    for pattern in (common, common / f"{first[:same]}*{min(suffixes)}"):
        listing = Files(path=str(pattern)).listing()
        found = {
            Path(file.uri) for file in listing.files if listing.what != "folder" or Files(path="").is_read(file.uri)
        }
        if found == {file.absolute() for file in files}:
            return {"kind": "files", "path": written(pattern, project) + ("/" if pattern is common else "")}, {}
    links = {f"{name}/{i:03d}-{file.name}": str(file.absolute()) for i, file in enumerate(files)}
    return {"kind": "files", "path": f"rows/{name}/"}, links


def _images(folder: Path, project: Path) -> Guess:
    """Guess a folder of images: which folder names the label, and how large they are read."""
    path = f"{written(folder, project)}/"
    files = list(islice(ImageFolder(path=str(folder)).list(), _LOOKED))
    parts = [Path(file.uri).relative_to(folder.expanduser().absolute()).parent.parts for file in files]
    level, labels = _label_level(parts)
    if labels is None:
        raise DataError(
            f"{folder}: images whose folders name no label: at least two folders with at least two images each are "
            "needed, as cats/1.png and dogs/2.png; or give a table with a column of images' paths"
        )
    if len(labels) < LEAST:
        raise DataError(f"{folder}: {counted(len(labels), 'image')}, at least {LEAST} are needed; give more images")
    size = _size([Path(file.uri) for file in files[:: max(len(files) // _SIZED, 1)]])
    layout = {"kind": "labeled_image"} | ({"pixels": size} if size else {})
    examples = [Example(f"{i}", label) for i, label in enumerate(labels)]
    split = propose_split((), [{} for _ in examples], examples, frozenset(), labels=True)
    counts = Counter(labels)
    named = f"label: the {'first folder' if level == 1 else 'folder'} of an image, {len(counts)} of them: "
    sized = (f"pixels: what most images have is about {size}",) if size else ()
    return Guess(
        kind=LabeledImage.yields,
        source={"kind": "image_folder", "path": path} | ({} if level == 1 else {"label_level": level}),
        format=layout,
        split=split.split,
        looked=f"{counted(len(files), 'image')}{' at the beginning' if len(files) == _LOOKED else ''}",
        why_format=(named + some([name for name, _ in counts.most_common()], 6), *sized),
        why_split=(split.reason, *split.others),
        commonest=_commonest(counts),
    )


def _commonest(counts: Counter[Any]) -> float | None:
    """Return the share of the most frequent value; None if there is none."""
    return max(counts.values()) / counts.total() if counts else None


def _label_level(parts: Sequence[tuple[str, ...]]) -> tuple[int, list[str] | None]:
    """Return which folder is the label, as `ImageFolder` counts them, and each image's; folders of splits are none."""
    for level in (1, -1):
        named = [one[level - 1 if level > 0 else level] for one in parts if one]
        counts = Counter(named)
        splits = {name.lower() for name in counts} <= {"train", "training", "val", "valid", "validation", "dev", "test"}
        if len(counts) >= 2 and not splits and min(count for _, count in counts.most_common(2)) >= 2:
            return level, named
    return 1, None


def _size(files: Sequence[Path]) -> int | None:
    """Return a width that images of these sizes are read at; None for those that need no smaller one than models'."""
    from PIL import Image

    widths: list[int] = []
    for file in files:
        try:
            with Image.open(file) as image:
                widths.append(min(image.size))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue  # a run puts it into quarantine
    middle = sorted(widths)[len(widths) // 2] if widths else 224
    return None if middle >= 200 else max(32, -(-middle // 32) * 32)
