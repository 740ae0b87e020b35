"""The prompts that a model drafts answers to, out of rows of some format."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ftlib.config import Split
from ftlib.data.cleaning import clean
from ftlib.data.conversations import Message
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.formats import Format
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.prepared import PreparedRow, split_file, write_split
from ftlib.data.processor import Processor
from ftlib.data.rows import Example
from ftlib.data.snapshot import read_snapshot
from ftlib.evaluation.revisions import Turns, prompt_ids

TURNS = "turns"


class Prompt(NamedTuple):
    """What a model is asked."""

    split: Split
    row_id: str
    turns: Turns
    """The last is the user's; of texts it is the only one."""
    reference: str | None
    """The row's own answer."""


def prompts_of(raw: RawDataset, data: PreparedDataset, format: Format, splits: Sequence[Split]) -> list[Prompt]:
    """Return the prompts of some splits' rows, in their order."""
    import pyarrow as pa

    places: dict[str, tuple[int, int]] = {}
    for number, split in enumerate(splits):
        ids = pa.ipc.open_file(pa.memory_map(str(split_file(data.path, split)))).read_all()["row_id"]
        places |= {row_id: (number, row) for row, row_id in enumerate(ids.to_pylist())}
    found: dict[tuple[int, int], Prompt] = {}
    for row_id, values in read_snapshot(raw.path / "rows.parquet"):
        example = format.example(values) if row_id in places else None
        if isinstance(example, Example):
            place = places[row_id]
            found[place] = Prompt(splits[place[0]], row_id, *_asked(format, example))
    return [found[place] for place in sorted(found)]


def _asked(format: Format, example: Example) -> tuple[Turns, str | None]:
    """Return an example's turns up to its answer, and the answer."""
    if format.prompting is not None:
        text = clean(example.text, keep_lines=True)
        return [{"role": "user", "content": text}], example.target if isinstance(example.target, str) else None
    turns: list[Message] = [json.loads(part) for part in example.parts[1:]]
    if turns[-1]["role"] != "assistant":
        return turns, None
    return turns[:-1], turns[-1]["content"]


def write_prompts(path: Path, prompts: Sequence[Prompt], layout: Format, processor: Processor) -> None:
    """Write prompts as rows of tokens, with their turns beside them."""
    rows = [
        PreparedRow(one.row_id, {INPUT_IDS: prompt_ids(one.turns, layout, processor)}, None, (json.dumps(one.turns),))
        for one in prompts
    ]
    write_split(path, layout.asked_as, rows, (TURNS,))
