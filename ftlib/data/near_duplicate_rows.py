"""Rows that are nearly the same as others: dropped where the recipe asks for it, after the equal ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ftlib.config import Split
from ftlib.data.assignment import Assignment, clean_example
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.near_duplicates import Suspect, colliding, near_copies, own_shingles, sketch
from ftlib.data.rows import Example
from ftlib.data.snapshot import read_snapshot

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BATCH = 1000
_HELD_OUT: frozenset[Split] = frozenset({"validation", "test"})
_OWN: frozenset[Split] = frozenset({"train", "validation", "test"})


class Placed(NamedTuple):
    """A dataset whose rows have their places."""

    raw: RawDataset
    dataset: Dataset
    assignment: Assignment


def drop_near(own: Placed, guards: Sequence[Placed], threshold: float) -> None:
    """Take out of train what is near a held-out row, here or in a guard, or near another training row of its label.

    Out of validation goes what is near a test row of the same dataset.
    The snapshots are read twice: once for every row's bands, once for the texts of the few rows that share one.
    Costs some 200 bytes a row, and four bytes a character of the rows that share a band.
    """
    import numpy as np

    parts = [(own, _OWN), *((guard, _HELD_OUT) for guard in guards)]
    sketches = np.concatenate([batch for part, wanted in parts for batch in _sketches(part, wanted, threshold)])
    if not (suspected := colliding(sketches)).any():
        return
    places = own.assignment.places
    own_rows = [i for i, place in enumerate(places) if place in _OWN]
    for suspect, reason in near_copies(_suspects(parts, sketches, suspected), threshold).items():
        places[own_rows[suspect]] = reason


def _examples(part: Placed, wanted: frozenset[Split]) -> Iterator[tuple[str, Split, Example]]:
    """Yield (row id, place, example) of the rows in these splits, in order."""
    rows = zip(part.assignment.places, read_snapshot(part.raw.path / "rows.parquet"), strict=True)
    for place, (row_id, values) in rows:
        if place in wanted and isinstance(example := clean_example(part.dataset, values), Example):
            yield row_id, place, example


def _sketches(part: Placed, wanted: frozenset[Split], threshold: float) -> Iterator[NDArray[np.uint64]]:
    texts = (example.text for _, _, example in _examples(part, wanted))
    yield sketch([], threshold)
    while batch := list(islice(texts, _BATCH)):
        yield sketch(batch, threshold)


def _suspects(
    parts: Iterable[tuple[Placed, frozenset[Split]]], sketches: NDArray[np.uint64], suspected: NDArray[np.bool_]
) -> Iterator[Suspect]:
    place = -1
    for part, wanted in parts:
        for row_id, split, example in _examples(part, wanted):
            place += 1
            if suspected[place]:
                bands = [int(band) for band in sketches[place]]
                side = split if wanted is _OWN else "elsewhere"
                yield Suspect(place, side, row_id, example.label, bands, own_shingles(example.text))
