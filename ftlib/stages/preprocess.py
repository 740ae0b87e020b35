"""Rows to splits as a model reads them: cleaned, de-duplicated, split, checked for leakage."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from ftlib.config import Config, Split
from ftlib.data.assignment import LEAKED
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset, SplitFacts
from ftlib.data.identity import published
from ftlib.data.inputs import TEXT
from ftlib.data.limits import check_duplicates, check_labels_of
from ftlib.data.passes.exchange import Exchange, exchange_in
from ftlib.data.passes.executor import Executor
from ftlib.data.prepared import SPLITS, SplitWriter, split_file, split_writer
from ftlib.data.profile import SLICE_VALUES
from ftlib.data.row_reasons import reasons, remedies
from ftlib.data.supervision import FINDINGS, Audit
from ftlib.errors import DataError
from ftlib.fingerprint import JSON, Job, digest, identify
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import FoundModel
from ftlib.progress import emit
from ftlib.retraining.training_rows import UsedRows, leave_out
from ftlib.stages.data_workers import be_driver, data_executor, run_on_cluster
from ftlib.stages.row_encoding import Encoding, Reading
from ftlib.stages.split_tally import SplitTally, split_tallies
from ftlib.training.compute import Compute
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.data.passes.placing import Placement, Placing


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


def _write(
    job: PreprocessJob, placing: Placing, placement: Placement, folder: Path, executor: Executor
) -> tuple[dict[Split, SplitTally], str]:
    """Write every row that has a split to that split's file, block by block.

    Return what was counted of each split, and the digest of all.
    """
    format, exchange = job.dataset.format, placing.exchange
    reading = Reading(job.name, job.dataset, job.raw, job.model, job.tokenizer)
    encoding = Encoding(reading, placing, published(placement.spellings))
    inputs = encoding.reader.inputs
    tallies = split_tallies(format, inputs, SLICE_VALUES)
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


def _check_audit(job: PreprocessJob, audit: Audit) -> None:
    """Raise DataError for a finding that the recipe does not let pass."""
    for finding in job.dataset.supervision.fails:
        if rows := audit.findings.get(finding, 0):
            raise DataError(
                f"datasets.{job.name}: {rows} of {counted(audit.rows, 'training row')} {FINDINGS[finding]}; correct "
                f"them, or take {finding} out of supervision.fails; `reglage look` shows rows"
            )


def _details(tallies: Mapping[Split, SplitTally]) -> dict[str, str]:
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
