"""What of a row decides where it goes, and what rows look like; `ftlib.data.passes.placing` says where each goes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from ftlib.data.cleaning import clean
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.profile import Profile, Profiler
from ftlib.data.row_keys import row_key
from ftlib.data.rows import Dropped, Example, Values, need_column
from ftlib.data.snapshot import read_origins, read_snapshot

LEAKED = ("leaked", "near_leaked")
"""The reasons why a held-out text costs a training row, and a test text a validation row."""


def profile_rows(raw: RawDataset, dataset: Dataset, files: Collection[int] | None = None) -> Profile:
    """Return what a snapshot's rows look like, or those of some files, given by their places in `raw.files`.

    To be compared by `ftlib.retraining.drift.drift` with the `profile` of what a model was trained on.
    """
    path, profiler = raw.path / "rows.parquet", Profiler(dataset.format.slices)
    for (_, values), (_, file) in zip(read_snapshot(path), read_origins(path), strict=True):
        if files is None or file in files:
            example = clean_example(dataset, values)
            if isinstance(example, Example):
                measures = dataset.format.measures(example)
                profiler.add(example.text, example.labels, example.slices, measures)
    return profiler.profile()


def need_columns(raw: RawDataset, dataset: Dataset, where: str) -> None:
    """Raise DataError, naming `where`, for a column that a dataset is read by and the rows lack."""
    for column in dataset.format.columns:
        need_column(column, raw.columns, f"{where}.format", dataset.source.column_hint(column))
    if dataset.key is not None:
        need_column(dataset.key, raw.columns, f"{where}.key")
    if dataset.split.column is not None:
        need_column(dataset.split.column, raw.columns, f"{where}.split")


def own_key(dataset: Dataset, values: Values) -> bytes:
    """Return the key that a dataset says a row has; empty where it says none."""
    key = row_key(values.get(dataset.key)) if dataset.key else None
    return key.encode() if key else b""


def clean_example(dataset: Dataset, values: Values) -> Example | str:
    """Return a row's example with its text cleaned, or the reason why it is dropped."""
    example = dataset.format.example(values)
    if isinstance(example, Dropped):
        return example.reason
    if dataset.format.shows_images:
        return example
    text = clean(example.text, keep_lines=dataset.format.keeps_lines)
    if not text.strip():
        return "empty_text"
    if len(text) < dataset.cleaning.min_characters:
        return "too_short"
    return replace(example, text=text)
