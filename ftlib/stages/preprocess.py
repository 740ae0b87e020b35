"""Rows to splits as a model reads them: cleaned, de-duplicated, split, checked for leakage."""

from __future__ import annotations

import functools
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, ClassVar, cast

from ftlib.config import BatchKind, Config, Split
from ftlib.data.assignment import LEAKED, clean_example
from ftlib.data.chat_template import ChatTemplate
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset, SplitFacts
from ftlib.data.formats.text import TextFormat, reads_text
from ftlib.data.identity import published
from ftlib.data.inputs import TEXT, Inputs, answer_input, fixed_bytes, plain_cells, row_size, token_columns
from ftlib.data.limits import check_duplicates, check_labels_of
from ftlib.data.passes.exchange import Exchange, exchange_in
from ftlib.data.passes.executor import Executor
from ftlib.data.prepared import SPLITS, PreparedRow, SplitWriter, split_file, split_schema, split_writer
from ftlib.data.processor import Processor
from ftlib.data.profile import SLICE_VALUES, Profiler
from ftlib.data.row_reasons import reasons, remedies
from ftlib.data.rows import Example, Piece, Values, labels_in
from ftlib.data.snapshot import Block, in_batches, read_snapshot
from ftlib.data.supervision import FINDINGS, Audit, Finding, learnt_places
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.fingerprint import JSON, Job, digest, identify
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import processor_digest
from ftlib.progress import emit
from ftlib.retraining.training_rows import UsedRows, leave_out
from ftlib.stages.data_workers import be_driver, data_executor, run_on_cluster
from ftlib.training.compute import Compute
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.data.passes.placing import Placement, Placing

_BATCH, _BATCH_BYTES = 1000, 32 << 20
"""Rows that are tokenised and written at a time, and the bytes, of rows and of their pixels, that are enough before."""


class Guard(Config):
    """Another dataset that is evaluated: training rows equal to one of its held-out rows are dropped."""

    raw: RawDataset
    dataset: Dataset


class PreprocessJob(Job):
    """What to prepare. `trains` says whether some phase trains on it; if not, an empty train split is fine."""

    stage: ClassVar[str] = "preprocess"
    version: ClassVar[int] = 4
    runtime: ClassVar[frozenset[str]] = frozenset({"name", "model", "compute"})

    name: str
    raw: RawDataset
    dataset: Dataset
    model: FoundModel
    tokenizer: str
    """The digest of the model's tokenizer."""
    reads: str = ""
    """The digest of how far and which tokens the model reads; with the tokenizer, all that matters of it here."""
    guards: tuple[Guard, ...] = ()
    trains: bool
    used: UsedRows | None = None
    """Which training rows a retraining uses; None is all of them."""
    compute: Compute = Compute()
    """Who works on the rows, and in how much memory."""


def preprocess(job: PreprocessJob, work: Workspace) -> PreparedDataset:
    """Prepare a dataset for training and evaluation; what is dropped is counted by reason.

    Raises DataError for an absent column, more dropped rows than allowed, and, if the dataset trains, for nothing to
    learn from; RecipeError for `max_tokens` beyond what the model reads, or without room for a token of text;
    ModelError without a tokenizer, or with one whose tokens the model was never given.
    """
    run_on_cluster("ftlib.stages.preprocess", job, job.compute, work, PreparedDataset)
    return work.once(job, PreparedDataset, lambda folder: _build(job, folder, work))


def _build(job: PreprocessJob, folder: Path, work: Workspace) -> PreparedDataset:
    with data_executor(job.compute, work) as executor:
        return build(job, folder, executor)


def build(job: PreprocessJob, folder: Path, executor: Executor, block_bytes: int | None = None) -> PreparedDataset:
    """Settle where every row goes, check the limits, and write the splits. Blocks have so many bytes of rows."""
    where = f"datasets.{job.name}"
    with exchange_in(folder, executor.shared) as exchange:
        placing, placement = _place(job, where, exchange, executor, block_bytes)
        dropped = placement.dropped()
        check_duplicates(job.dataset.limits, dropped, placement.rows, where)
        _check_dropped(job, dropped)
        lost = dropped
        if job.used:  # after the checks: what is left out on purpose is no loss
            leave_out(placement, job.raw, job.used, where)
            dropped = placement.dropped()
        tallies, content = _write(job, placing, placement, folder, executor)
    if unread := sum((tally.dropped for tally in tallies.values()), Counter[str]()):
        dropped = dict(sorted((Counter(dropped) + unread).items()))
        _check_dropped(job, dict(Counter(lost) + unread), _details(tallies))
    splits: dict[Split, SplitFacts] = {split: tally.facts() for split, tally in tallies.items()}
    audit = tallies["train"].audit()
    if job.trains:
        _check_audit(job, audit)
        _check_train(job, splits["train"], dropped)
        _check_thumbs(job, tallies["train"].wanted)
        check_labels_of(job.dataset.limits, splits["train"].labels, where)
    return PreparedDataset(
        content=content,
        kind=job.dataset.format.yields,
        labels=tuple(sorted({label for facts in splits.values() for label in facts.labels})),
        spellings=_spellings(placement.spellings),
        splits=splits,
        ledger=Ledger(rows_in=placement.rows, kept=placement.rows - sum(dropped.values()), dropped=dropped),
        leaked=sum(dropped.get(reason, 0) for reason in LEAKED),
        profile=tallies["train"].texts.profile(),
        tokenizer=job.tokenizer,
        special_tokens=dict(sorted(sum((tally.special for tally in tallies.values()), Counter[str]()).items())),
        audit=audit,
        image_changes=dict(sorted(sum((tally.changes for tally in tallies.values()), Counter[str]()).items())),
    )


def _spellings(written: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Return the rows of every spelling of the labels that have another one than their name."""
    by_name: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for spelling, name in published(written).items():
        by_name[name][spelling] = written[spelling]
    return {name: dict(sorted(by_name[name].items())) for name in sorted(by_name) if {*by_name[name]} != {name}}


def _place(
    job: PreprocessJob, where: str, exchange: Exchange, executor: Executor, block_bytes: int | None
) -> tuple[Placing, Placement]:
    """Return where every row goes: by itself, with its copies, and beside the guards' held-out rows."""
    from ftlib.data.passes.near import drop_near  # loads numpy
    from ftlib.data.passes.placing import BLOCK_BYTES, Placing, drop_leaked, key_parts, place

    replayed, size = job.used.replayed if job.used else None, block_bytes or BLOCK_BYTES
    own = Placing.of("own", job.raw, job.dataset, exchange, size, replayed)
    guards = [Placing.of(f"guard-{i}", one.raw, one.dataset, exchange, size) for i, one in enumerate(job.guards)]
    parts = key_parts([own, *guards], executor)
    placement, kept = place(own, where, executor, parts)
    beside = [(guard, *place(guard, f"{where}, its guard", executor, parts)) for guard in guards]
    drop_leaked((own, placement, kept), beside, executor)
    if job.dataset.cleaning.near_duplicates is not None:
        held_out = [(guard, of_guard) for guard, of_guard, _ in beside]
        drop_near((own, placement), held_out, job.dataset.cleaning.near_duplicates, where, executor)
    return own, placement


def _processor(job: PreprocessJob) -> Processor:
    from ftlib.kinds.loading import load_processor

    folder = job.model.folder
    # transformers makes up an empty tokenizer where the files are missing: every word would be unknown.
    if processor_digest(folder) != job.tokenizer:
        raise ModelError(
            f"{folder}: image processor or tokenizer files changed or vanished since the run started; run again"
        )
    return load_processor(folder)


class _Reader:
    """The model's processor, what the format writes with it, and what the model takes of that."""

    def __init__(self, job: PreprocessJob, processor: Processor, tokens: int | None, end: int | None) -> None:
        from ftlib.models.special_tokens import Spelling

        format = job.dataset.format
        self.processor = processor
        self.inputs: Inputs = format.inputs(processor)
        self._job, self._tokens, self._end = job, tokens, end
        self._spelling = Spelling(processor.tokenizer) if reads_text(format) else None

    @classmethod
    def of(cls, job: PreprocessJob) -> _Reader:
        """Load it. Raises RecipeError for a format's fields that do not fit the model."""
        from ftlib.models.limits import limits_of

        processor, limits, format = _processor(job), limits_of(job.model.folder), job.dataset.format
        end = limits.end if KINDS[format.yields].reads_one_place else None
        if reads_text(format):
            _check_lengths(job, format, processor.tokenizer, limits.positions)
            if end is not None and format.special_tokens == "keep":
                raise RecipeError(
                    f"datasets.{job.name}.format.special_tokens: keep, but {job.model.name} reads a row at its end "
                    "token, and a text that spells it would have several; leave it at split"
                )
        return cls(job, processor, limits.tokens, end)

    def spelt(self, example: Example) -> set[str]:
        """Return the special tokens that a row's texts spell."""
        written = example.target if isinstance(example.target, str) else ""
        return set() if self._spelling is None else self._spelling.found([example.text, written, *example.parts])

    @functools.cached_property
    def _other_template(self) -> bool:
        template, own = self._job.dataset.format.chat_template(self.processor), self._own_template()
        return template is not None and own is not None and template.text != own

    def _own_template(self) -> str | None:
        """Return the template that the model has by itself."""
        try:
            return ChatTemplate(self.processor.tokenizer).text
        except ModelError:
            return None

    def audit(self, piece: Piece, *, cut: bool) -> Iterator[Finding]:
        """Yield what is wrong with what a language model's row teaches."""
        kind = KINDS[self._job.dataset.format.yields]
        if not kind.language:
            return
        tokenizer: Any = self.processor.tokenizer
        ids = piece.answer_ids
        runs = learnt_places(piece.target, piece.supervised, len(ids))
        if not piece.supervised and not self._job.dataset.format.asks_alone:
            yield "no_targets"
        if cut:
            yield "cut"
        last = {ids[end - 1] for _, end in runs}
        ends = {tokenizer.eos_token_id, *_own_end(piece)} - {None}
        if kind.prompts and last - ends:
            yield "end_not_learnt"
        if tokenizer.pad_token_id in last & ends:
            yield "end_is_padding"
        if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
            yield "double_start"
        if self._other_template:
            yield "other_template"

    def check(self, row: PreparedRow) -> None:
        """Raise ModelError for a token that the embedding has no row for, DataError for a second end."""
        for column in token_columns(self.inputs):
            self._check_tokens(row.row_id, cast("Sequence[int]", row.inputs[column.name]))

    def _check_tokens(self, row_id: str, ids: Sequence[int]) -> None:
        highest = max(ids, default=0)
        if self._tokens is not None and highest >= self._tokens:
            raise ModelError(
                f"datasets.{self._job.name}: row {row_id} holds the token "
                f"{cast(Any, self.processor.tokenizer).convert_ids_to_tokens(highest)!r} ({highest}), and the "
                f"embedding of {self._job.model.name} ends at {self._tokens - 1}: its tokenizer has tokens that the "
                "model was never given; take them out of the tokenizer, or resize the embedding and save both"
            )
        if self._end is not None and list(ids).count(self._end) > 1:
            raise DataError(
                f"datasets.{self._job.name}: row {row_id} spells the model's end token, at which it reads, and the "
                "tokenizer cannot split it; take it out of the text"
            )


def _check_lengths(job: PreprocessJob, format: TextFormat, tokenizer: Any, positions: int | None) -> None:
    """Raise RecipeError for more tokens than the model reads, or too few for a text's."""
    # transformers says 1e30 for a tokenizer that does not know.
    longest = min(int(tokenizer.model_max_length), positions or int(tokenizer.model_max_length))
    where = f"datasets.{job.name}.format"
    for name, tokens in format.row_limits().items():
        if tokens > longest:
            raise RecipeError(f"{where}.{name}: {tokens}, but {job.model.name} reads at most {longest}; lower it")
    if format.max_tokens < (least := format.least_tokens(tokenizer)):
        raise RecipeError(
            f"{where}.max_tokens: {format.max_tokens} leaves no room for a token of text beside the tokenizer's "
            f"special ones; give it at least {least}"
        )


@dataclass
class _Tally:
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

    def merge(self, other: _Tally) -> None:
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
        if not KINDS[self.kind].language:
            return Audit()
        findings: dict[Finding, int] = {finding: self.found[finding] for finding in FINDINGS if self.found[finding]}
        return Audit(rows=self.rows, tokens=self.tokens, supervised=self.learnt, findings=findings)

    def facts(self) -> SplitFacts:
        return SplitFacts(
            rows=self.rows,
            tokens=self.tokens,
            supervised=self.supervised,
            truncated=self.truncated,
            longest=self.longest,
            labels=dict(sorted(self.labels.items())),
        )


class _Encoding:
    """Makes the rows of a block, in whatever process: the model's processor is loaded once in each."""

    def __init__(self, job: PreprocessJob, placing: Placing, names: Mapping[str, str]) -> None:
        self._job = job
        self._placing = placing
        self._names = names

    @functools.cached_property
    def reader(self) -> _Reader:
        """Load it. Raises RecipeError for a format's fields that do not fit the model."""
        return _Reader.of(self._job)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "reader"}

    def __call__(self, block: Block) -> tuple[Block, dict[Split, _Tally]]:
        """Encode a block, batch by batch, and leave its rows, and what identifies them, in the exchange by split."""
        import numpy as np
        import pyarrow as pa

        job, reader, exchange = self._job, self.reader, self._placing.exchange
        format, held = job.dataset.format, fixed_bytes(reader.inputs)
        tallies = _tallies(job, reader.inputs, sys.maxsize)
        codes = exchange.slice_of(self._placing.places, np.uint8, block.start, block.stop).tolist()
        rows = zip(codes, read_snapshot(job.raw.path / "rows.parquet", block.start, block.stop), strict=True)
        with ExitStack() as stack:
            writers: dict[Split, SplitWriter] = {}
            digested: dict[Split, IO[bytes]] = {}
            for split in SPLITS:
                stream = stack.enter_context(exchange.writing(f"rows-{split}-{block.number}"))
                schema = split_schema(format.yields, format.slices, reader.inputs)
                writers[split] = SplitWriter(
                    stack.enter_context(pa.ipc.new_stream(stream, schema)), schema, reader.inputs
                )
                digested[split] = stack.enter_context(exchange.writing(f"digested-{split}-{block.number}"))
            for batch in in_batches(rows, lambda row: held + _bytes_of(row[1][1]), _BATCH, _BATCH_BYTES):
                for code, split in enumerate(SPLITS, 1):
                    kept = [row for place, row in batch if place == code]
                    made = _prepared_rows(job.dataset, self._names, kept, reader, tallies[split], digested[split])
                    writers[split].write(made)
        return block, tallies


def _tallies(job: PreprocessJob, inputs: Inputs, most: int) -> dict[Split, _Tally]:
    format = job.dataset.format
    return {split: _Tally(format.yields, inputs, texts=Profiler(format.slices, most)) for split in SPLITS}


def _write(
    job: PreprocessJob, placing: Placing, placement: Placement, folder: Path, executor: Executor
) -> tuple[dict[Split, _Tally], str]:
    """Write every row that has a split to that split's file, block by block.

    Return what was counted of each split, and the digest of all.
    """
    format, exchange = job.dataset.format, placing.exchange
    encoding = _Encoding(job, placing, published(placement.spellings))
    inputs = encoding.reader.inputs
    tallies = _tallies(job, inputs, SLICE_VALUES)
    hashes = {split: hashlib.sha256() for split in SPLITS}
    placing.write_places(placement)
    with ExitStack() as stack:
        writers: dict[Split, SplitWriter] = {
            split: stack.enter_context(split_writer(split_file(folder, split), format.yields, format.slices, inputs))
            for split in SPLITS
        }
        for block, of_block in executor.map(encoding, placing.blocks):
            for split in SPLITS:
                tallies[split].merge(of_block[split])
                names = f"rows-{split}-{block.number}", f"digested-{split}-{block.number}"
                writers[split].append(exchange.path(names[0]))
                with exchange.path(names[1]).open("rb") as stream:
                    while data := stream.read(1 << 20):
                        hashes[split].update(data)
                exchange.forget(*names)
            emit(f"preprocess {job.name}", block.stop, placement.rows, "rows")
    layout = [] if inputs == TEXT else [[identify(column) for column in inputs]]
    of_splits: list[JSON] = [hashes[split].hexdigest() for split in SPLITS]
    return tallies, digest([format.yields, list(format.slices), of_splits, *layout])


def _bytes_of(values: Values) -> int:
    """Return what a row's texts take in memory, which images do, too."""
    return sum(len(value) for value in values.values() if isinstance(value, str))


def _prepared_rows(
    dataset: Dataset,
    names: Mapping[str, str],
    kept: Sequence[tuple[str, Values]],
    reader: _Reader,
    tally: _Tally,
    digested: IO[bytes],
) -> list[PreparedRow]:
    """Return the rows that the format makes of examples, and count them in the tally."""
    format, cleaned = dataset.format, [(row_id, clean_example(dataset, values)) for row_id, values in kept]
    # A row with a place is an example: the filter only tells the type checker.
    examples = [(row_id, example.named(names)) for row_id, example in cleaned if isinstance(example, Example)]
    if not examples:
        return []
    rows: list[PreparedRow] = []
    encoded = format.encode([example for _, example in examples], reader.processor)
    for (row_id, example), of_row in zip(examples, encoded, strict=True):
        if of_row.dropped is not None:
            tally.dropped[of_row.dropped.reason] += 1
            tally.details.setdefault(of_row.dropped.reason, f"row {row_id}: {of_row.dropped.detail}")
            continue
        tally.truncated += of_row.truncated
        tally.special.update(reader.spelt(example))
        tally.changes.update(of_row.changes)
        tally.texts.add(example.text, example.labels, example.slices, of_row.measures)
        for i, piece in enumerate(of_row.pieces):
            name = row_id if len(of_row.pieces) == 1 else f"{row_id}-{i}"
            rows.append(PreparedRow(name, piece.inputs, piece.target, example.slices, piece.supervised))
            reader.check(rows[-1])
            tally.found.update(reader.audit(piece, cut=of_row.truncated))
            tally.add(rows[-1], digested)
    return rows


def _own_end(piece: Piece) -> list[int | None]:
    """Return the token that ends a turn of a chat."""
    return [piece.target["end"]] if isinstance(piece.target, dict) and "end" in piece.target else []


def _check_audit(job: PreprocessJob, audit: Audit) -> None:
    """Raise DataError for a finding that the recipe does not let pass."""
    for finding in job.dataset.supervision.fails:
        if rows := audit.findings.get(finding, 0):
            raise DataError(
                f"datasets.{job.name}: {rows} of {counted(audit.rows, 'training row')} {FINDINGS[finding]}; correct "
                f"them, or take {finding} out of supervision.fails; `reglage look` shows rows"
            )


def _details(tallies: Mapping[Split, _Tally]) -> dict[str, str]:
    """Return what there is to say of the first row of each reason that is known of the tokenizer alone."""
    return {reason: detail for tally in tallies.values() for reason, detail in tally.details.items()}


def _check_dropped(
    job: PreprocessJob, dropped: dict[str, int], details: Mapping[str, str] = MappingProxyType({})
) -> None:
    rows = job.raw.ledger.kept
    share, allowed = sum(dropped.values()) / max(rows, 1), job.dataset.limits.dropped_rows
    if share > allowed:
        raise DataError(
            f"datasets.{job.name}: {sum(dropped.values())} of {rows} rows ({share:.1%}) were dropped, allowed "
            f"{allowed:.1%}: {_reasons(dropped)}{''.join(f'; {detail}' for detail in details.values())}; "
            f"correct the rows{'' if share == 1 else ' or raise limits.dropped_rows'}"
        )


def _check_train(job: PreprocessJob, train: SplitFacts, dropped: dict[str, int]) -> None:
    """Raise DataError if the training rows hold nothing to learn: no targets, no label, or one label alone."""
    where = f"datasets.{job.name}"
    if train.supervised == 0 and not (train.rows and job.dataset.format.asks_alone):
        what = "no rows" if train.rows == 0 else "no targets"
        raise DataError(
            f"{where}: the train split has {what} to learn from (dropped: {_reasons(dropped)}); "
            "check the format's columns and the split"
        )
    kind = KINDS[job.dataset.format.yields]
    if kind.labeled and not train.labels:
        raise DataError(f"{where}: none of the {train.rows} training rows has a label; check the format's columns")
    if len(train.labels) < kind.least_labels:
        hint = "".join(map(job.dataset.source.column_hint, job.dataset.format.columns))
        raise DataError(
            f"{where}: all {train.rows} training rows have the label {next(iter(train.labels))!r}; "
            f"a classifier needs at least two labels: check the format's columns{hint}"
        )


def _check_thumbs(job: PreprocessJob, wanted: Mapping[bool, int]) -> None:
    """Raise DataError where all judged rows were judged alike: what is wanted is learnt from what is not."""
    if len(wanted) == 1:
        ((said, rows),) = wanted.items()
        raise DataError(
            f"datasets.{job.name}: all {rows} training rows have the thumb {'up' if said else 'down'}, and nothing can "
            "be told from one kind alone: add rows with the other, or learn answers by format prompt_completion or chat"
        )


def _reasons(dropped: dict[str, int]) -> str:
    """Return the counts by reason, and what to do about those that say little by themselves."""
    advice = "; ".join(remedies(dropped))
    return (reasons(dropped) or "none") + (f" ({advice})" if advice else "")


if __name__ == "__main__":
    from ftlib.stages import preprocess as itself  # what travels to workers must be of a module that they can import

    be_driver(itself.PreprocessJob, itself.preprocess)
