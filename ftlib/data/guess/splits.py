"""Which rows train, are chosen by, and test: a policy that works on the rows that were looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from ftlib.data.guess.columns import Column
from ftlib.data.guess.formats import SPLITS
from ftlib.data.rows import Example, Value
from ftlib.data.splitting import Keyed, SplitPolicy, split_rows
from ftlib.errors import DataError
from ftlib.wording import some

GROUPS = (
    *("user", "customer", "author", "patient", "session", "thread", "source", "module", "package", "conversation"),
    *("group", "subject", "account", "speaker", "domain", "url", "document", "article", "host", "device", "family"),
)
SMALL, RARE = 300, 20
"""Rows below which the held-out shares are larger, and rows of a label below which it is split by itself."""


class Proposed(NamedTuple):
    """A policy as a recipe has it, what speaks for it, and what else there is."""

    split: dict[str, Any]
    reason: str
    others: tuple[str, ...] = ()


def propose_split(
    table: Sequence[Column],
    rows: Sequence[Mapping[str, Value]],
    examples: Sequence[Example],
    used: frozenset[str],
    *,
    labels: bool,
) -> Proposed:
    """Return the first policy that leaves every split rows, and none of them a label that training never sees.

    `rows` are those that the format reads, `examples` what it makes of each, `used` the columns that it reads, and
    `labels` says whether each row has one label. Raises DataError if no policy does.
    """
    fitting = [one for one in _policies(table, examples, used, labels) if _fits(one.split, rows, examples, labels)]
    if not fitting:
        raise DataError(
            f"{len(rows)} rows cannot be split so that each part has rows, and training every label; give more rows, "
            "or leave out labels that are on one or two rows only"
        )
    others = tuple(
        f"{one.split['by']} would work too: {_flow(one.split)}" for one in fitting[1:3] if "column" in one.split
    )
    return fitting[0]._replace(others=others)


def shares(rows: int) -> dict[str, float]:
    """Return the shares of so many rows that are held out."""
    return {"validation": 0.2 if rows < SMALL else 0.1, "test": 0.2}


def _policies(
    table: Sequence[Column], examples: Sequence[Example], used: frozenset[str], labels: bool
) -> Iterator[Proposed]:
    """Yield policies, the strictest first: what a column says, groups, time, then the hash of each row's text."""
    held = shares(len(examples))
    left = [column for column in table if column.name not in used and column.full]
    for column in left:
        if column.called(SPLITS) and {str(v).strip().lower() for v in column.values} == {"train", "validation", "test"}:
            yield Proposed({"by": "given", "column": column.name}, f"{column.name!r} says which row is where")
    # The context of a question counts, though the format reads it.
    groups = [column for column in table if column.full and _groups(column) and column.name not in used]
    for column in sorted(groups, key=lambda column: -len(column.counts)):
        yield Proposed(
            {"by": "group", "column": column.name, **held},
            f"rows of one {column.name!r} stay on one side ({len(column.counts):,} of them): else the test would be of "
            "what training has half seen",
        )
    for column in left:
        if column.is_moment and len(column.counts) >= 10:
            yield Proposed(
                {"by": "time", "column": column.name, **held},
                f"by {column.name!r}: the past trains and the newest rows test, as it will be in use",
            )
    rare = [label for label, count in Counter(one.label for one in examples).items() if label and count < RARE]
    if labels and rare:
        reason = f"in each label by itself, since {some(sorted(rare), 3)} {'is' if len(rare) == 1 else 'are'} rare"
        yield Proposed({"by": "stratified", **held}, reason)
    reason = "by the hash of each row's text: rows that come later move nobody; no column says what belongs together"
    yield Proposed({"by": "random", **held}, reason)
    if labels:
        yield Proposed({"by": "stratified", **held}, "in each label by itself, since there are few rows")


def _groups(column: Column) -> bool:
    """Say whether a column may name what rows belong to: by its name, and because most of its values are on several."""
    several, most = len(column.counts), max(column.counts.values())
    keyed = column.words[-1:] in (["id"], ["name"]) and len(column.words) > 1
    named = column.called(GROUPS) or keyed or (column.called(("context",)) and not column.names)
    return named and 10 <= several <= 0.8 * column.rows and most <= 0.3 * column.rows


def _fits(
    split: dict[str, Any], rows: Sequence[Mapping[str, Value]], examples: Sequence[Example], labels: bool
) -> bool:
    policy = SplitPolicy.model_validate(split)
    keyed = [
        Keyed(f"{i:012d}", one.text.encode(), one.label, row.get(policy.column) if policy.column else None)
        for i, (row, one) in enumerate(zip(rows, examples, strict=True))
    ]
    try:
        sides = split_rows(policy, keyed)
    except DataError:
        return False
    if min(map(sides.count, ("validation", "test"))) < 2 or sides.count("train") < len(rows) / 3:
        return False
    if not labels:
        return True
    seen = {side: {one.label for one, where in zip(examples, sides, strict=True) if where == side} for side in sides}
    return len(seen["train"]) > 1 and seen["validation"] | seen["test"] <= seen["train"]


def _flow(split: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{name}: {value}" for name, value in split.items() if name in ("by", "column")) + "}"
