"""Where every row of a dataset goes: to a split, or out, with the reason. The same for a dataset and for its guards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

from ftlib.config import Split
from ftlib.data.cleaning import clean
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.identity import text_key
from ftlib.data.prepared import SPLITS
from ftlib.data.profile import Profile, Profiler
from ftlib.data.row_keys import row_key
from ftlib.data.rows import Dropped, Example, Values, need_column
from ftlib.data.snapshot import read_origins, read_snapshot
from ftlib.data.splitting import Keyed, split_rows

LEAKED = ("leaked", "near_leaked")
"""The reasons why a held-out text costs a training row, and a test text a validation row."""


@dataclass
class Assignment:
    """The place of every row of a snapshot, in its order. Making it costs some 900 bytes a row."""

    places: list[str]
    """A split, or the reason why the row is dropped."""
    keys: list[bytes]
    """The key of each row's text; empty for a row without one."""
    spellings: Counter[str] = field(default_factory=Counter[str])
    """Rows by label as it is written."""

    def held_out(self) -> set[bytes]:
        """Return the keys of the texts in validation and test."""
        return self._texts("validation", "test")

    def drop_leaked(self, held_out: Iterable[bytes]) -> None:
        """Take out of train every row whose text is held out, here or in `held_out`; out of validation those in test.

        What is chosen by validation rows is measured on test rows: no text may do both. The test stays whole.
        """
        unseen, test = self.held_out().union(held_out), self._texts("test")
        for i, (key, place) in enumerate(zip(self.keys, self.places, strict=True)):
            if (place == "train" and key in unseen) or (place == "validation" and key in test):
                self.places[i] = LEAKED[0]

    def _texts(self, *splits: Split) -> set[bytes]:
        return {k for k, place in zip(self.keys, self.places, strict=True) if place in splits}

    def dropped(self) -> dict[str, int]:
        """Return how many rows were dropped for each reason."""
        counts = Counter(place for place in self.places if place not in SPLITS)
        return dict(sorted(counts.items()))


def assign(raw: RawDataset, dataset: Dataset, where: str) -> Assignment:
    """Clean, de-duplicate and split a snapshot's rows. Raises DataError for an absent column, naming `where`.

    By a column or a key, rows are split first and de-duplicated within each split, so that no training row can displace
    a held-out one; otherwise the split follows from the text, and copies of a text share it anyway.
    """
    need_columns(raw, dataset, where)
    spellings: Counter[str] = Counter()
    places, keys, rows = _scan(raw, dataset, spellings)
    if dataset.split.column or dataset.key:
        _settle(rows, split_rows(dataset.split, [row for _, row in rows]), places)
        rows = [(i, row) for i, row in rows if places[i] in SPLITS]
        if dataset.cleaning.deduplicate:
            _drop_copies(rows, places)
    else:
        if dataset.cleaning.deduplicate:
            _drop_copies(rows, places)
            rows = [(i, row) for i, row in rows if not places[i]]
        _settle(rows, split_rows(dataset.split, [row for _, row in rows]), places)
    return Assignment(places, keys, spellings)


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


def _scan(
    raw: RawDataset, dataset: Dataset, spellings: Counter[str]
) -> tuple[list[str], list[bytes], list[tuple[int, Keyed]]]:
    """Return every row's place so far (a reason or nothing), its key, and the rows that are examples.

    Labels are counted in `spellings`, as they are written.
    """
    column = dataset.split.column
    places: list[str] = []
    keys: list[bytes] = []
    rows: list[tuple[int, Keyed]] = []
    labels: dict[str | None, str | None] = {}
    for i, (row_id, values) in enumerate(read_snapshot(raw.path / "rows.parquet")):
        example = clean_example(dataset, values)
        if isinstance(example, Example):
            key = text_key(example.text)
            value = values.get(column) if column else None
            if dataset.format.names_labels:
                spellings.update(example.labels)
            label = labels.setdefault(example.label, example.label)  # one text for all its rows, not one for each
            rows.append((i, Keyed(row_id, key, label, value, own_key(dataset, values))))
            places.append("")
            keys.append(key)
        else:
            places.append(example)
            keys.append(b"")
    return places, keys, rows


def own_key(dataset: Dataset, values: Values) -> bytes:
    """Return the key that a dataset says a row has; empty where it says none."""
    key = row_key(values.get(dataset.key)) if dataset.key else None
    return key.encode() if key else b""


def _settle(rows: Sequence[tuple[int, Keyed]], splits: Sequence[Split | None], places: list[str]) -> None:
    for (i, _), split in zip(rows, splits, strict=True):
        places[i] = split or "no_split_value"


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


def _drop_copies(rows: Sequence[tuple[int, Keyed]], places: list[str]) -> None:
    """Keep one row per place and text: the one of the smallest id, whatever the order; none if labels contradict."""
    repeated = _repeated(row.key for _, row in rows)  # most texts are there once: only the others are gathered
    copies: dict[tuple[str, bytes], list[tuple[str, int, str | None]]] = {}
    for i, row in rows:
        if row.key in repeated:
            copies.setdefault((places[i], row.key), []).append((row.row_id, i, row.label))
    for same in copies.values():
        contradict = len({label for _, _, label in same}) > 1
        for _, i, _ in same if contradict else sorted(same, key=lambda copy: copy[:2])[1:]:
            places[i] = "conflicting_labels" if contradict else "duplicate"


def _repeated(keys: Iterable[bytes]) -> set[bytes]:
    seen: set[bytes] = set()
    twice: set[bytes] = set()
    for key in keys:
        (twice if key in seen else seen).add(key)
    return twice
