"""Rows as a model reads them: encoded block by block, in whatever process, counted and checked on the way."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from ftlib.config import Split
from ftlib.data.assignment import clean_example
from ftlib.data.chat_template import ChatTemplate
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.formats.text import TextFormat, reads_text
from ftlib.data.inputs import Inputs, fixed_bytes, token_columns
from ftlib.data.prepared import SPLITS, PreparedRow, SplitWriter, split_schema
from ftlib.data.processor import Processor
from ftlib.data.rows import Example, Piece, Values
from ftlib.data.snapshot import Block, in_batches, read_snapshot
from ftlib.data.supervision import Finding, learnt_places
from ftlib.errors import DataError, ModelError, RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import FoundModel
from ftlib.models.folder import processor_digest
from ftlib.stages.split_tally import SplitTally, split_tallies

if TYPE_CHECKING:
    from ftlib.data.passes.placing import Placing

_BATCH, _BATCH_BYTES = 1000, 32 << 20
"""Rows that are tokenised and written at a time, and the bytes, of rows and of their pixels, that are enough before."""


class Reading(NamedTuple):
    """Whose rows are read, and by what."""

    name: str
    """The dataset's name in the recipe."""
    dataset: Dataset
    raw: RawDataset
    model: FoundModel
    tokenizer: str
    """The digest that the model's tokenizer had when the run started."""


class Encoding:
    """Makes the rows of a block, in whatever process: the model's processor is loaded once in each."""

    def __init__(self, reading: Reading, placing: Placing, names: Mapping[str, str]) -> None:
        """Take whose rows are read, where each goes, and by what name each label's spelling is published."""
        self._reading = reading
        self._placing = placing
        self._names = names

    @functools.cached_property
    def reader(self) -> RowReader:
        """Load it. Raises RecipeError for a format's fields that do not fit the model."""
        return RowReader.of(self._reading)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "reader"}

    def __call__(self, block: Block) -> tuple[Block, dict[Split, SplitTally]]:
        """Encode a block, batch by batch, and leave its rows, and what identifies them, in the exchange by split."""
        import numpy as np
        import pyarrow as pa

        reader, exchange = self.reader, self._placing.exchange
        dataset, held = self._reading.dataset, fixed_bytes(reader.inputs)
        format = dataset.format
        tallies = split_tallies(format, reader.inputs, sys.maxsize)
        codes = exchange.slice_of(self._placing.places, np.uint8, block.start, block.stop).tolist()
        rows = zip(codes, read_snapshot(self._reading.raw.path / "rows.parquet", block.start, block.stop), strict=True)
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
                    made = _prepared_rows(dataset, self._names, kept, reader, tallies[split], digested[split])
                    writers[split].write(made)
        return block, tallies


class RowReader:
    """The model's processor, what the format writes with it, and what the model takes of that."""

    def __init__(self, reading: Reading, processor: Processor, tokens: int | None, end: int | None) -> None:
        from ftlib.models.special_tokens import Spelling

        format = reading.dataset.format
        self.processor = processor
        self.inputs: Inputs = format.inputs(processor)
        self._reading, self._tokens, self._end = reading, tokens, end
        self._spelling = Spelling(processor.tokenizer) if reads_text(format) else None

    @classmethod
    def of(cls, reading: Reading) -> RowReader:
        """Load it. Raises RecipeError for a format's fields that do not fit the model."""
        from ftlib.models.limits import limits_of

        processor, limits, format = _processor(reading), limits_of(reading.model.folder), reading.dataset.format
        end = limits.end if KINDS[format.yields].reads_one_place else None
        if reads_text(format):
            _check_lengths(reading, format, processor.tokenizer, limits.positions)
            if end is not None and format.special_tokens == "keep":
                raise RecipeError(
                    f"datasets.{reading.name}.format.special_tokens: keep, but {reading.model.name} reads a row at its "
                    "end token, and a text that spells it would have several; leave it at split"
                )
        return cls(reading, processor, limits.tokens, end)

    def spelt(self, example: Example) -> set[str]:
        """Return the special tokens that a row's texts spell."""
        written = example.target if isinstance(example.target, str) else ""
        return set() if self._spelling is None else self._spelling.found([example.text, written, *example.parts])

    @functools.cached_property
    def _other_template(self) -> bool:
        template, own = self._reading.dataset.format.chat_template(self.processor), self._own_template()
        return template is not None and own is not None and template.text != own

    @functools.cached_property
    def _learns_header(self) -> bool:
        template = self._reading.dataset.format.chat_template(self.processor)
        return template is not None and template.learns_header

    def _own_template(self) -> str | None:
        """Return the template that the model has by itself."""
        try:
            return ChatTemplate(self.processor.tokenizer).text
        except ModelError:
            return None

    def audit(self, piece: Piece, *, cut: bool) -> Iterator[Finding]:
        """Yield what is wrong with what a language model's row teaches."""
        kind = KINDS[self._reading.dataset.format.yields]
        if not kind.language:
            return
        tokenizer: Any = self.processor.tokenizer
        ids = piece.answer_ids
        runs = learnt_places(piece.target, piece.supervised, len(ids))
        if not piece.supervised and not self._reading.dataset.format.asks_alone:
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
        if runs and self._learns_header:
            yield "header_learnt"

    def check(self, row: PreparedRow) -> None:
        """Raise ModelError for a token that the embedding has no row for, DataError for a second end."""
        for column in token_columns(self.inputs):
            self._check_tokens(row.row_id, cast("Sequence[int]", row.inputs[column.name]))

    def _check_tokens(self, row_id: str, ids: Sequence[int]) -> None:
        highest = max(ids, default=0)
        if self._tokens is not None and highest >= self._tokens:
            raise ModelError(
                f"datasets.{self._reading.name}: row {row_id} holds the token "
                f"{cast(Any, self.processor.tokenizer).convert_ids_to_tokens(highest)!r} ({highest}), and the "
                f"embedding of {self._reading.model.name} ends at {self._tokens - 1}: its tokenizer has tokens that "
                "the model was never given; take them out of the tokenizer, or resize the embedding and save both"
            )
        if self._end is not None and list(ids).count(self._end) > 1:
            raise DataError(
                f"datasets.{self._reading.name}: row {row_id} spells the model's end token, at which it reads, and the "
                "tokenizer cannot split it; take it out of the text"
            )


def _processor(reading: Reading) -> Processor:
    from ftlib.kinds.loading import load_processor

    folder = reading.model.folder
    # transformers makes up an empty tokenizer where the files are missing: every word would be unknown.
    if processor_digest(folder) != reading.tokenizer:
        raise ModelError(
            f"{folder}: image processor or tokenizer files changed or vanished since the run started; run again"
        )
    return load_processor(folder)


def _check_lengths(reading: Reading, format: TextFormat, tokenizer: Any, positions: int | None) -> None:
    """Raise RecipeError for more tokens than the model reads, or too few for a text's."""
    # transformers says 1e30 for a tokenizer that does not know.
    longest = min(int(tokenizer.model_max_length), positions or int(tokenizer.model_max_length))
    where = f"datasets.{reading.name}.format"
    for name, tokens in format.row_limits().items():
        if tokens > longest:
            raise RecipeError(f"{where}.{name}: {tokens}, but {reading.model.name} reads at most {longest}; lower it")
    if format.max_tokens < (least := format.least_tokens(tokenizer)):
        raise RecipeError(
            f"{where}.max_tokens: {format.max_tokens} leaves no room for a token of text beside the tokenizer's "
            f"special ones; give it at least {least}"
        )


def _prepared_rows(
    dataset: Dataset,
    names: Mapping[str, str],
    kept: Sequence[tuple[str, Values]],
    reader: RowReader,
    tally: SplitTally,
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


def _bytes_of(values: Values) -> int:
    """Return what a row's texts take in memory, which images do, too."""
    return sum(len(value) for value in values.values() if isinstance(value, str))
