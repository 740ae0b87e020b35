"""What is counted of a split while it is written: by its blocks in any number of processes, then together."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO, cast

from ftlib.config import BatchKind, Split
from ftlib.data.datasets import SplitFacts
from ftlib.data.formats import Format
from ftlib.data.inputs import TEXT, Inputs, answer_input, plain_cells, row_size
from ftlib.data.prepared import SPLITS, PreparedRow
from ftlib.data.profile import Profiler
from ftlib.data.rows import labels_in
from ftlib.data.supervision import FINDINGS, Audit, Finding, learnt_places
from ftlib.kinds.kind import KINDS


@dataclass
class SplitTally:
    """One split, or a block's share of it, while it is written."""

    kind: BatchKind
    inputs: Inputs = TEXT
    rows: int = 0
    tokens: int = 0
    supervised: int = 0
    learnt: int = 0
    """Of a language model's rows, the tokens that are predicted."""
    wanted: Counter[bool] = field(default_factory=Counter[bool])
    """Judged rows by what was said of them."""
    truncated: int = 0
    longest: int = 0
    special: Counter[str] = field(default_factory=Counter[str])
    changes: Counter[str] = field(default_factory=Counter[str])
    found: Counter[Finding] = field(default_factory=Counter[Finding])
    """Rows by what is wrong with what they teach."""
    dropped: Counter[str] = field(default_factory=Counter[str])
    """Rows that the tokenizer has no place for, by reason."""
    details: dict[str, str] = field(default_factory=dict[str, str])
    """What there is to say of the first row of a reason."""
    labels: Counter[str] = field(default_factory=Counter[str])
    texts: Profiler = field(default_factory=Profiler)

    def add(self, row: PreparedRow, digested: IO[bytes]) -> None:
        """Count a row, and write what its split is identified by."""
        size = row_size(self.inputs, row.inputs)
        self.rows += 1
        self.tokens += size
        self.supervised += row.supervised
        self.longest = max(self.longest, size)
        if KINDS[self.kind].labeled:
            self.labels.update(labels_in(row.target))
        if KINDS[self.kind].language:
            length = len(cast("Sequence[int]", row.inputs[answer_input(row.inputs)]))
            self.learnt += sum(end - first for first, end in learnt_places(row.target, row.supervised, length))
        if isinstance(row.target, dict) and "wanted" in row.target:
            self.wanted[row.target["wanted"]] += 1
        digested.write(json.dumps([row.row_id, *plain_cells(self.inputs, row.inputs), row.target, row.slices]).encode())

    def merge(self, other: SplitTally) -> None:
        """Count the rows of a later block."""
        self.rows += other.rows
        self.tokens += other.tokens
        self.supervised += other.supervised
        self.learnt += other.learnt
        self.truncated += other.truncated
        self.longest = max(self.longest, other.longest)
        self.wanted.update(other.wanted)
        self.special.update(other.special)
        self.changes.update(other.changes)
        self.found.update(other.found)
        self.dropped.update(other.dropped)
        self.labels.update(other.labels)
        self.details = {**other.details, **self.details}
        self.texts.merge(other.texts)

    def audit(self) -> Audit:
        """Return what a language model's rows teach; nothing of other models'."""
        if not KINDS[self.kind].language:
            return Audit()
        findings: dict[Finding, int] = {finding: self.found[finding] for finding in FINDINGS if self.found[finding]}
        return Audit(rows=self.rows, tokens=self.tokens, supervised=self.learnt, findings=findings)

    def facts(self) -> SplitFacts:
        """Return what is published of the split."""
        return SplitFacts(
            rows=self.rows,
            tokens=self.tokens,
            supervised=self.supervised,
            truncated=self.truncated,
            longest=self.longest,
            labels=dict(sorted(self.labels.items())),
        )


def split_tallies(format: Format, inputs: Inputs, most: int) -> dict[Split, SplitTally]:
    """Return one that is empty for each split, for profiles of at most so many values a slice."""
    return {split: SplitTally(format.yields, inputs, texts=Profiler(format.slices, most)) for split in SPLITS}
