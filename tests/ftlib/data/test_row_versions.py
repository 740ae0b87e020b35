"""Which version of a row counts, against a second implementation that holds everything in dictionaries."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ftlib.data.row_keys import as_date, is_tombstone, row_key
from ftlib.data.row_versions import RowVersions
from ftlib.data.rows import Row
from ftlib.errors import DataError

version = st.tuples(
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from([None, 1, 2, "3", 2.5]),
    st.booleans(),
    st.integers(0, 2),
)


def naive(versions: list[tuple[str, Any, bool, int]]) -> tuple[list[bool], Counter[str]]:
    """Sort the versions of each key by the rule as docs/ingest.md words it."""
    by_key: dict[str, list[tuple[Any, ...]]] = {}
    for i, (key, moment, dead, file) in enumerate(versions):
        missing = math.inf if dead else -math.inf
        by_key.setdefault(key, []).append((missing if moment is None else float(moment), dead, file, i))
    winners = [max(found) for found in by_key.values()]
    alive = {i for _, dead, _, i in winners if not dead}
    counts = Counter({"tombstone": sum(dead for _, _, dead, _ in versions)})
    for found in by_key.values():
        rows = [i for _, dead, _, i in found if not dead]
        counts["deleted" if max(found)[1] else "superseded"] += sum(i not in alive for i in rows)
    return [i in alive for i, (_, _, dead, _) in enumerate(versions) if not dead], +counts


@given(st.lists(version, max_size=30))
@settings(max_examples=200)
def test_the_last_version_of_every_key_is_that_of_a_plain_dictionary(versions: list[Any]) -> None:
    seen = RowVersions("id", "at")
    for i, (key, moment, dead, file) in enumerate(versions):
        row = Row("f", i, 0, {"id": key, "at": moment, "_deleted": dead})
        assert seen.check(row) is None
        if not seen.bury(row, file):
            seen.add(row, file)
    kept, counts = seen.last()
    expected, reasons = naive(versions)
    assert kept.tolist() == expected
    assert counts == dict(reasons)


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (7, "7"), ("7", "7"), (7.0, "7"), (" 7 ", "7"), ("07", "07"), (-1, "-1"), (2**70, str(2**70)), ("é", "é"),
        (7.5, None), (None, None), ("", None), (" ", None), (True, None), ([7], None), ({"id": 7}, None),
        (math.nan, None), (math.inf, None),
    ],
)  # fmt: skip
def test_a_key_is_a_text_or_a_whole_number_however_the_file_writes_it(value: Any, key: str | None) -> None:
    assert row_key(value) == key


@pytest.mark.parametrize(
    ("value", "dead"),
    [(True, True), ("true", True), ("True", True), (False, False), (None, False), ("", False), ("false", False),
     ("yes", None), (1, None), ([], None)],
)  # fmt: skip
def test_only_true_and_false_say_whether_a_row_is_deleted(value: Any, dead: bool | None) -> None:
    assert is_tombstone(value) is dead


def test_moments_of_one_zone_and_another_are_compared_as_moments() -> None:
    assert as_date("2026-01-01T01:00:00+02:00") == as_date("2025-12-31T23:00:00Z") == as_date("2025-12-31T23:00")


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"text": "x"}, "missing_key"),
        ({"id": float("nan")}, "missing_key"),
        ({"id": 1, "at": "yesterday"}, "odd_updated"),
        ({"id": 1, "at": True}, "odd_updated"),
        ({"id": 1, "_deleted": "perhaps"}, "odd_deleted"),
    ],
)
def test_a_row_that_cannot_be_placed_is_told_with_its_column(values: dict[str, Any], reason: str) -> None:
    bad = RowVersions("id", "at").check(Row("f", 3, 10, values))
    assert bad is not None
    assert (bad.reason, bad.uri, bad.line) == (reason, "f", 3)


def test_numbers_and_dates_have_no_common_order() -> None:
    seen = RowVersions("id", "at")
    for moment in (1767225600, "2026-01-01"):
        seen.add(Row("f", 1, 0, {"id": 1, "at": moment}), 0)
    with pytest.raises(DataError, match="allowed are all numbers or all ISO 8601 dates"):
        seen.last()


def test_what_a_row_costs() -> None:
    import tracemalloc

    count = 50_000
    tracemalloc.start()
    seen = RowVersions("id", None)
    for i in range(count):
        seen.add(Row("f", i, 0, {"id": i % 40_000}), 0)
    held, _ = tracemalloc.get_traced_memory()
    kept, _ = seen.last()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert int(np.count_nonzero(kept)) == 40_000
    assert held < 45 * count
    assert peak < 130 * count
