from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ftlib.data.rows import Checked, Row, check_values
from ftlib.data.snapshot import read_snapshot, write_snapshot


def checked(rows: list[dict[str, Any]]) -> list[Checked]:
    found = [check_values(Row("rows", i, 0, row), 100_000) for i, row in enumerate(rows)]
    return [row for row in found if isinstance(row, Checked)]


cell = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
    | st.lists(st.integers(), max_size=2)
)


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "é c"]), cell, min_size=1), max_size=10))
@settings(max_examples=80)
def test_values_come_back_with_their_types(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    path = tmp_path_factory.mktemp("snapshot") / "rows.parquet"
    good = checked(rows)
    facts = write_snapshot(path, good)
    back = list(read_snapshot(path))
    assert facts.rows == len(back) == len(good)
    assert [row_id for row_id, _ in back] == [row.row_id for row in good]
    assert [repr(sorted(values.items())) for _, values in back] == [repr(sorted(row.values.items())) for row in good]
    assert facts.content == hashlib.sha256("".join(row.row_id for row in good).encode()).hexdigest()
    assert not path.with_suffix(".spool").exists()


def test_columns_of_one_type_are_typed_for_other_readers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"s": "x", "i": 1, "f": 0.5, "b": True, "m": 1}, {"s": None, "m": "one"}]
    write_snapshot(tmp_path / "rows.parquet", checked(rows))
    schema = parquet.read_schema(tmp_path / "rows.parquet")
    types = {field.name: str(field.type) for field in schema}
    assert types.pop("_file") == "int32"
    assert types == {"_row_id": "string", "b": "bool", "f": "double", "i": "int64", "m": "string", "s": "string"}


def test_a_failing_source_leaves_no_spool(tmp_path: Path) -> None:
    def rows() -> Any:
        yield from checked([{"a": 1}])
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_snapshot(tmp_path / "rows.parquet", rows())
    assert list(tmp_path.iterdir()) == []
