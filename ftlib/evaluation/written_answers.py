"""What a frozen model writes in place of each row's own answer: what a phase learns from instead."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from typing_extensions import override

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.inputs import answer_input
from ftlib.data.prepared import split_file
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of
from ftlib.evaluation.inference import InferencePlan, Models
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.base import Request
from ftlib.kinds.heads.completions import CompletionAnswers, continued
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load, load_tokenizer
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint, FoundModel

Written = list[list[int]]
"""The tokens of each row's answer, up to where it ended; the end itself is the last, where there was one."""


class WritePlan(InferencePlan[Written]):
    """Which model writes answers to which splits' prompts, and where the splits go with them."""

    kind: Literal["written"] = "written"
    model: FoundModel | Checkpoint
    data: PreparedDataset
    splits: tuple[Split, ...]
    max_new_tokens: int
    num_beams: int
    folder: str
    """Where the splits are written; one that is there is not made again."""
    fingerprint: str
    """The job's."""

    @property
    @override
    def what(self) -> str:
        return f"answer {self.name}"

    @property
    @override
    def job_file(self) -> Path:
        return Path(self.folder, f"answer-{self.fingerprint}.json")

    @property
    @override
    def made(self) -> list[Path]:
        return [split_file(Path(self.folder), split) for split in self.splits]

    @override
    def models(self, device: torch.device) -> Models[Written]:
        return _Writer(self, device)

    @override
    def rows(self, item: int) -> PreparedSplit:
        return open_split(split_file(self.data.path, self.splits[item]), ())

    @override
    def done_before(self, item: int) -> tuple[int, int]:
        rows = [self.data.splits[split].rows for split in self.splits]
        return sum(rows[:item]), sum(rows)

    @override
    def make(self, answer: Callable[[int], Written]) -> None:
        """Write every split that is not there, under its name once it is whole."""
        tokenizer = load_tokenizer(self.model.folder)
        for item, split in enumerate(self.splits):
            target = split_file(Path(self.folder), split)
            if not target.exists():
                part = target.with_suffix(".part")
                _replace_answers(split_file(self.data.path, split), part, self.rows(item), answer(item), tokenizer)
                part.replace(target)

    @override
    def to_bytes(self, answer: Written) -> bytes:
        return json.dumps(answer).encode()

    @override
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> Written:
        answers = [ids for part in parts for ids in json.loads(part)]
        return [answers[i] for i in order]


class _Writer(Models[Written]):
    """The plan's model in memory."""

    def __init__(self, plan: WritePlan, device: torch.device) -> None:
        self._plan, self._model = plan, load(plan.model, plan.data.kind).to(device)
        self._tokenizer = load_tokenizer(plan.model.folder)

    @override
    def answer(self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING) -> Written:
        plan, split, collate = self._plan, self._plan.rows(item), Collator.of(self._model)
        asked = Request(split, (), lambda: self._tokenizer, plan.max_new_tokens, plan.num_beams)
        answers = KINDS[split.kind].head().answers(asked)
        assert isinstance(answers, CompletionAnswers)
        written: dict[int, list[int]] = {}
        with torch.inference_mode():
            for rows in batches_of(split, share):
                prompts = answers.prompts(split.batch(rows, collate), rows)
                new = continued(
                    self._model,
                    prompts,
                    self._tokenizer,
                    plan.max_new_tokens,
                    answers.ends,
                    num_beams=plan.num_beams,
                )
                written |= dict(zip(rows.tolist(), new, strict=True))
                on_rows(len(written))
        ends = frozenset({self._tokenizer.eos_token_id, *answers.ends})
        return [self._ended(split, row, written[row], ends) for row in sorted(written)]

    def _ended(self, split: PreparedSplit, row: int, ids: list[int], ends: frozenset[int | None]) -> list[int]:
        """Put the end of the row's own answer behind one that came to an end: of it, it is not known which it was."""
        last = int(split.tokens(row)[_learnt_until(split, row) - 1])
        return [*ids, last] if len(ids) < self._plan.max_new_tokens and last in ends else ids


def _learnt_until(split: PreparedSplit, row: int) -> int:
    """Return the place behind a row's last supervised token."""
    turns = getattr(split.targets, "places", None)
    return int(split.lengths[row]) if turns is None else turns[row][-1]


def _replace_answers(source: Path, target: Path, split: PreparedSplit, written: Written, tokenizer: Any) -> None:
    """Copy a split with other answers; a row whose answer is empty and has no end to learn is left out."""
    import pyarrow as pa

    table = pa.ipc.open_file(pa.memory_map(str(source))).read_all()
    name = answer_input(table.column_names)
    turns: list[list[int]] | None = getattr(split.targets, "places", None)
    ids, supervised, targets = list[list[int]](), list[int](), list[object]()
    ends: Sequence[Mapping[str, Any]] = table["target"].to_pylist() if turns is not None else ()
    for row, new in enumerate(written):
        until = int(split.lengths[row] - split.supervised[row]) if turns is None else turns[row][-2]
        ids.append([*split.tokens(row)[:until].tolist(), *new])
        answer = tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if turns is None:
            supervised.append(len(new))
            targets.append(answer)
        else:
            places = [*turns[row][:-2], until, until + len(new)]
            supervised.append(sum(places[1::2]) - sum(places[::2]))
            targets.append({**ends[row], "places": places, "answer": answer})
    columns: dict[str, Any] = {name: ids, "supervised": supervised, "target": targets}
    for column, values in columns.items():
        field = table.schema.field(column)
        table = table.set_column(table.column_names.index(column), field, pa.array(values, field.type))
    kept = table.filter(pa.array([count > 0 for count in supervised], pa.bool_()))
    with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, table.schema) as file:
        file.write_table(kept)
