"""A table from its file."""

from __future__ import annotations

import json
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.kinds.outcomes.base import SLICE, Outcomes
from ftlib.kinds.outcomes.completions import CompletionOutcomes
from ftlib.kinds.outcomes.labels import LabelOutcomes
from ftlib.kinds.outcomes.multi_labels import MultiLabelOutcomes
from ftlib.kinds.outcomes.scores import ScoreOutcomes
from ftlib.kinds.outcomes.spans import SpanOutcomes
from ftlib.kinds.outcomes.tagged import TaggedOutcomes
from ftlib.kinds.outcomes.tokens import TokenOutcomes

_TABLES: tuple[type[Outcomes], ...] = (
    LabelOutcomes,
    MultiLabelOutcomes,
    ScoreOutcomes,
    TaggedOutcomes,
    SpanOutcomes,
    TokenOutcomes,
    CompletionOutcomes,
)


def read_outcomes(path: Path) -> Outcomes:
    """Read a table that `to_parquet` wrote. Raises StorageError if it is gone or damaged."""
    import pyarrow as pa

    try:
        return parse_outcomes(path.read_bytes())
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise StorageError(
            f"{path} is not a table of outcomes ({type(error).__name__}); delete it and the `evaluate` folder under "
            "the work folder's stages/, and run again"
        ) from error


def parse_outcomes(data: bytes) -> Outcomes:
    """Return the table that `to_parquet` made. Raises what pyarrow raises for other bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(data)).read()
    about = table.schema.metadata or {}
    (kind,) = (one for one in _TABLES if one.kind == about[b"kind"].decode())
    slices = [name for name in table.column_names if name.startswith(SLICE)]
    common = {
        "row_ids": tuple(table["row_id"].to_pylist()),
        "nll": table["nll"].to_numpy(),
        "targets": table["targets"].to_numpy(),
        "slices": {name.removeprefix(SLICE): tuple(table[name].to_pylist()) for name in slices},
    }
    return kind.read(table, json.loads(about[b"header"]), common)
