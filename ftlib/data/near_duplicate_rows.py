"""Rows that are nearly the same as others: dropped where the recipe asks for it, after the equal ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from ftlib.config import Split
from ftlib.data.assignment import Assignment, clean_example
from ftlib.data.dataset import Dataset
from ftlib.data.datasets import RawDataset
from ftlib.data.images.near_images import Looked, NearImages
from ftlib.data.near_duplicates import NearTexts, Reason, Suspect, colliding, near_copies, own_shingles, sketch
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


_Part = tuple[Placed, frozenset[Split]]
"""A dataset, and which of its splits are looked at."""


def drop_near(own: Placed, guards: Sequence[Placed], threshold: float) -> None:
    """Take out of train what is near a held-out row, here or in a guard, or near another training row of its label.

    Out of validation goes what is near a test row of the same dataset.
    The snapshots of texts are read twice: once for every row's bands, once for the texts of the few rows that share
    one. Costs some 200 bytes a row, and four bytes a character of the rows that share a band; those of images are read
    once, at some 400 bytes a row.
    """
    parts = [(own, _OWN), *((guard, _HELD_OUT) for guard in guards)]
    places = own.assignment.places
    own_rows = [i for i, place in enumerate(places) if place in _OWN]
    images = own.dataset.format.shows_images
    near = near_copies(_looked(parts), partial(NearImages, threshold)) if images else _near_texts(parts, threshold)
    for place, reason in near.items():
        places[own_rows[place]] = reason


def _looked(parts: Iterable[_Part]) -> Iterator[Looked]:
    """Yield the rows with what they look like; every image is decoded once."""
    place = -1
    for part, wanted in parts:
        for row_id, split, example in _examples(part, wanted):
            place += 1
            if (sight := part.dataset.format.sight(example)) is not None:
                side = split if wanted is _OWN else "elsewhere"
                yield Looked(place, side, row_id, example.label, sight)


def _near_texts(parts: Sequence[_Part], threshold: float) -> dict[int, Reason]:
    import numpy as np

    sketches = np.concatenate([batch for part, wanted in parts for batch in _sketches(part, wanted, threshold)])
    if not (suspected := colliding(sketches)).any():
        return {}
    return near_copies(_suspects(parts, sketches, suspected), partial(NearTexts, threshold))


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


def _suspects(parts: Iterable[_Part], sketches: NDArray[np.uint64], suspected: NDArray[np.bool_]) -> Iterator[Suspect]:
    place = -1
    for part, wanted in parts:
        for row_id, split, example in _examples(part, wanted):
            place += 1
            if suspected[place]:
                bands = [int(band) for band in sketches[place]]
                side = split if wanted is _OWN else "elsewhere"
                yield Suspect(place, side, row_id, example.label, bands, own_shingles(example.text))
