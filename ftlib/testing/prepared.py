"""Prepared datasets, past the ingest and preprocess stages."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast, get_args

from ftlib.config import BatchKind, Split
from ftlib.data.datasets import Ledger, PreparedDataset, SplitFacts
from ftlib.data.formats import Format
from ftlib.data.inputs import Inputs, row_size
from ftlib.data.prepared import SPLITS, PreparedRow, add_prompts, split_file, write_split
from ftlib.data.processor import Processor
from ftlib.data.rows import Example, Values, labels_in
from ftlib.fingerprint import digest, file_digest
from ftlib.kinds.kind import KINDS
from ftlib.testing.models import tiny_chat_tokenizer, tiny_tokenizer


def tiny_row_id(split: Split, i: int) -> str:
    """Return the id `tiny_prepared` gives to a split's row: 32 hex digits, as ingestion's."""
    return hashlib.sha256(f"{split}-{i}".encode()).hexdigest()[:32]


def tiny_prepared(
    folder: Path,
    rows: Mapping[Split, Sequence[Mapping[str, object]]],
    *,
    kind: BatchKind = "labeled",
    quoted: str | None = None,
) -> PreparedDataset:
    """Write rows of a kind of text as a prepared dataset, past the ingest and preprocess stages.

    Columns are called as the fields of the kind's format: text and label, words and tags, prompt and completion.
    `quoted` is the column of prompts that the rows bring as texts too, as `ftlib.stages.quote` adds them.
    """
    if KINDS[kind].modality != "text":
        raise ValueError(f"tiny_prepared has rows of text, got {kind!r}; lay them out with tiny_prepared_as")
    tokenizer = tiny_chat_tokenizer() if kind == "chats" else tiny_tokenizer()
    return tiny_prepared_as(folder, _format(kind), rows, Processor.of(tokenizer), quoted=quoted)


def tiny_prepared_as(
    folder: Path,
    format: Format,
    rows: Mapping[Split, Sequence[Mapping[str, object]]],
    processor: Processor,
    *,
    quoted: str | None = None,
) -> PreparedDataset:
    """Write rows as a format lays them out, one piece each, as a prepared dataset; `quoted` as in `tiny_prepared`."""
    folder.mkdir(parents=True, exist_ok=True)
    splits: dict[Split, SplitFacts] = {}
    inputs = format.inputs(processor)
    for split in SPLITS:
        examples = [format.example(cast("Values", row)) for row in rows.get(split, ())]
        kept = [example for example in examples if isinstance(example, Example)]
        encoded = format.encode(kept, processor) if kept else []
        written = [
            PreparedRow(tiny_row_id(split, i), piece.inputs, piece.target, supervised=piece.supervised)
            for i, cut in enumerate(encoded)
            for piece in cut.pieces
        ]
        file = split_file(folder, split)
        write_split(file, format.yields, written, inputs=inputs)
        if quoted is not None:
            add_prompts(file, file.with_suffix(".quoted"), [str(row[quoted]) for row in rows.get(split, ())])
            file.with_suffix(".quoted").replace(file)
        splits[split] = _facts(written, format.yields, inputs)
    count = sum(facts.rows for facts in splits.values())
    return PreparedDataset(
        uri=str(folder.absolute()),
        content=digest([file_digest(split_file(folder, split)) for split in SPLITS]),
        kind=format.yields,
        labels=tuple(sorted({label for facts in splits.values() for label in facts.labels})),
        splits=splits,
        ledger=Ledger(rows_in=count, kept=count),
        leaked=0,
        tokenizer="tiny",
    )


def _format(kind: BatchKind) -> Format:
    """Return the first format that yields a kind, reading columns that are called as its own required fields are."""
    members: tuple[type[Format], ...] = get_args(get_args(Format)[0])
    format = next(member for member in members if member.yields == kind)
    required = [name for name, field in format.model_fields.items() if field.is_required()]
    return format.model_validate({name: name for name in required or ["messages"]})


def _facts(rows: Sequence[PreparedRow], kind: BatchKind, inputs: Inputs) -> SplitFacts:
    sizes = [row_size(inputs, row.inputs) for row in rows]
    labels = Counter(label for row in rows for label in labels_in(row.target)) if KINDS[kind].labeled else {}
    return SplitFacts(
        rows=len(rows),
        tokens=sum(sizes),
        supervised=sum(row.supervised for row in rows),
        truncated=0,
        longest=max(sizes, default=0),
        labels=dict(sorted(labels.items())),
    )
