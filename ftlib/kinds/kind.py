"""The table of kinds of batch: everything that differs from kind to kind stands in one row.

A kind is what a format yields, an objective needs and a metric reads. Reading a recipe imports this module, so a row
holds words, and what is light; the head, which needs torch, is loaded when it is asked for. A new kind is a row in
`table/`, its files in `heads/`, `outcomes/` and `predictions/`, a word in `ftlib.config.BatchKind` and the column of
its targets in `ftlib.data.prepared`; docs/add/kind.md walks through it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args

from ftlib.config import BatchKind
from ftlib.kinds.table import encoders, images, language_models
from ftlib.kinds.table.row import Kind

_ROWS = {kind.name: kind for kind in (*encoders.ROWS, *language_models.ROWS, *images.ROWS)}

if {*_ROWS} != {*get_args(BatchKind)} or any(kind.outcomes.kind != kind.taught_as for kind in _ROWS.values()):
    raise TypeError(f"ftlib.config.BatchKind names {get_args(BatchKind)}, the table of kinds has {(*_ROWS,)}")

KINDS: Mapping[BatchKind, Kind] = MappingProxyType({name: _ROWS[name] for name in get_args(BatchKind)})
"""Every kind of batch, by its name. Of several kinds that a class of transformers answers, the plainest comes first."""


def one_model(*kinds: BatchKind) -> bool:
    """Say whether one model, with one head, answers batches of all these kinds."""
    one = len({KINDS[kind].auto_class for kind in kinds}) < 2
    return len({*kinds}) < 2 or (one and all(KINDS[kind].language for kind in kinds))
