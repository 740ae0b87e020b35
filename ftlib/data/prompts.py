"""What a row's model is asked, as it stands in the row: without the prefix, separator or template that tokens have.

Rewards, judges and checkers read it so, wherever it was answered: a policy's layout is no business of theirs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from ftlib.config import Split
from ftlib.data.cleaning import clean
from ftlib.data.conversations import Message, transcript
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.formats import Format
from ftlib.data.prepared import split_file
from ftlib.data.rows import Example
from ftlib.data.snapshot import read_snapshot


class Prompt(NamedTuple):
    """What a model is asked."""

    split: Split
    row_id: str
    turns: list[Message]
    """The last is the user's; of texts it is the only one."""
    reference: str | None
    """The row's own answer."""

    @property
    def text(self) -> str:
        """Return it as one text: a single turn's own words; of several turns each behind its role."""
        return self.turns[0]["content"] if len(self.turns) == 1 else transcript(self.turns)


def prompts_of(raw: RawDataset, data: PreparedDataset, format: Format, splits: Sequence[Split]) -> list[Prompt]:
    """Return the prompts of some splits' rows, in their order: of a chat, what stands before the last answer in it."""
    import pyarrow as pa

    places: dict[str, tuple[int, int]] = {}
    answers: dict[str, tuple[str, int]] = {}
    for number, split in enumerate(splits):
        table = pa.ipc.open_file(pa.memory_map(str(split_file(data.path, split)))).read_all()
        ids = table["row_id"].to_pylist()
        places |= {row_id: (number, row) for row, row_id in enumerate(ids)}
        if format.prompting is None:
            targets = zip(ids, table["target"].to_pylist(), strict=True)
            answers |= {row_id: (row["answer"], len(row["places"]) // 2) for row_id, row in targets}
    asked: dict[tuple[int, int], Prompt] = {}
    for row_id, values in read_snapshot(raw.path / "rows.parquet"):
        example = format.example(values) if row_id in places else None
        if isinstance(example, Example):
            place = places[row_id]
            asked[place] = Prompt(splits[place[0]], row_id, *_asked(format, example, answers.get(row_id)))
    return [asked[place] for place in sorted(asked)]


def _asked(format: Format, example: Example, kept: tuple[str, int] | None) -> tuple[list[Message], str | None]:
    """Return an example's turns up to its answer, and the answer; a chat that was too long has lost turns at its end.

    `kept` says of a chat the last answer that is left, and how many runs of tokens are learnt.
    """
    if format.prompting is not None:
        text = clean(example.text, keep_lines=True)
        return [{"role": "user", "content": text}], example.target or None if isinstance(example.target, str) else None
    turns: list[Any] = [json.loads(part) for part in example.parts[1:]]
    answer, learnt = kept or ("", 0)
    answered = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    same = [i for i in answered if turns[i]["content"] == answer]
    if learnt == 0 or not same:
        return turns, None
    at = same[-1]
    if getattr(format, "learn", None) == "all" and answered[min(learnt, len(answered)) - 1] in same:
        at = answered[min(learnt, len(answered)) - 1]  # its words come again in what was cut
    return turns[:at], answer or None
