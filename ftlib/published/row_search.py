"""In which versions a row is: what a deletion request asks. Reads manifests and index files, never weights or data."""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ftlib.config import Config, Split
from ftlib.errors import RecipeError, StorageError
from ftlib.published.ancestry import Ancestry
from ftlib.published.lineage import indexes_of
from ftlib.published.row_index import KEYS, ROWS, RowIndex, contains, index_file, read_row_index, row_id_bytes
from ftlib.registry.reading import RegistryReader
from ftlib.registry.versions import File

_FILES_AT_ONCE = 4


class Wanted(Config):
    """A row by its id, or by its own key."""

    by: Literal["row", "key"]
    value: str

    def __str__(self) -> str:
        return f"{self.by} {self.value}"


class Holding(Config):
    """A version that a row went into."""

    wanted: Wanted
    version: str
    dataset: str
    split: Split
    through: str | None = None
    """The version it was made from, and that the row trained; None if the row is in this version's own data."""

    @property
    def use(self) -> str:
        """Return what the row did there."""
        return "trained" if self.split == "train" else f"evaluated ({self.split})"


class Holdings(Config):
    """The answer, and how far it goes."""

    found: tuple[Holding, ...]
    searched: tuple[str, ...]
    without_index: tuple[str, ...]
    """Versions that cannot be asked: whether the row is in them is not known."""
    without_keys: tuple[str, ...] = ()
    """Versions with data whose rows have no key, if one was asked for."""


@dataclass(frozen=True)
class _Place:
    version: str
    dataset: str
    split: Split
    kind: str
    index: RowIndex


def find_rows(registry: RegistryReader, wanted: Sequence[Wanted], ancestry: Ancestry | None = None) -> Holdings:
    """Search every version of a registry, and name those made from one that a row trained.

    Each index file is read once, however many versions share it; some four are on the disk at a time. Raises
    RecipeError for what cannot be a row id, IntegrityError for a damaged index.
    """
    for asked in wanted:
        if asked.by == "row" and row_id_bytes(asked.value) is None:
            raise RecipeError(
                f"row {asked.value!r}: allowed are the 32 hex digits of `_row_id`; give a row's own key with --key"
            )
    ancestry = ancestry or Ancestry.read(registry)
    indexes, without_index = _indexes(ancestry)
    places = _places(ancestry, indexes)
    with ThreadPoolExecutor(_FILES_AT_ONCE) as pool:
        answers = pool.map(lambda item: _ask(registry, item[0], item[1], wanted), places.items())
        direct = [holding for holdings in answers for holding in holdings]
    keyed = any(asked.by == "key" for asked in wanted)
    return Holdings(
        found=tuple(sorted([*direct, *_inherited(direct, ancestry)], key=_order)),
        searched=tuple(indexes),
        without_index=tuple(without_index),
        without_keys=tuple(n for n, of in indexes.items() if keyed and any(index.key is None for index in of.values())),
    )


def _indexes(ancestry: Ancestry) -> tuple[dict[str, dict[str, RowIndex]], list[str]]:
    indexes: dict[str, dict[str, RowIndex]] = {}
    without: list[str] = []
    for name, (version, manifest) in ancestry.manifests.items():
        try:
            indexes[name] = indexes_of(version, manifest)
        except StorageError:
            without.append(name)
    return indexes, without


def _places(ancestry: Ancestry, indexes: dict[str, dict[str, RowIndex]]) -> dict[File, list[_Place]]:
    """Return every index file with all the places that share its bytes."""
    by_digest: dict[str, tuple[File, list[_Place]]] = {}
    for name, datasets in indexes.items():
        files = {file.path: file for file in ancestry.manifests[name][1].files}
        for dataset, index in datasets.items():
            for split in index.splits:
                for kind in (ROWS, KEYS) if index.key else (ROWS,):
                    file = files[index_file(dataset, split, kind)]
                    by_digest.setdefault(file.sha256, (file, []))[1].append(_Place(name, dataset, split, kind, index))
    return dict(by_digest.values())


def _ask(registry: RegistryReader, file: File, places: list[_Place], wanted: Sequence[Wanted]) -> list[Holding]:
    """Look everything up in one file."""
    kind = places[0].kind
    asked = [item for item in wanted if (item.by == "key") == (kind == KEYS)]
    if not asked:
        return []
    holdings: list[Holding] = []
    with tempfile.TemporaryDirectory() as scratch:
        registry.store.get_file(file.blob, copy := Path(scratch, "index"), file.sha256)
        index = read_row_index(copy)
        for place in places:
            for item in asked:
                if any(contains(index, stored).all() for stored in _stored(place, item)):
                    holdings.append(
                        Holding(wanted=item, version=place.version, dataset=place.dataset, split=place.split)
                    )
        del index  # the mapping goes before its file
    return holdings


def _stored(place: _Place, item: Wanted) -> tuple[bytes, ...]:
    """Return what may stand for a row in a place's file."""
    if place.kind == KEYS:
        return place.index.key_bytes(item.value)
    row = row_id_bytes(item.value)
    return () if row is None else (row,)


def _inherited(direct: Sequence[Holding], ancestry: Ancestry) -> Iterator[Holding]:
    """Yield the versions whose weights come from one that a row trained."""
    trained: dict[str, list[Holding]] = defaultdict(list)
    for holding in direct:
        if holding.split == "train":
            trained[holding.version].append(holding)
    for name in ancestry.manifests if trained else ():
        for ancestor in ancestry.ancestors(name):
            for holding in trained.get(ancestor, ()):
                yield holding.model_copy(update={"version": name, "through": ancestor})


def _order(holding: Holding) -> tuple[str, str, str, int, str, str]:
    name, _, number = holding.version.partition("@")
    return str(holding.wanted), holding.through or "", name, int(number), holding.dataset, holding.split
