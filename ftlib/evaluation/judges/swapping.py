"""Pairs asked in both orders, and no question twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ftlib.errors import ModelError
from ftlib.evaluation.judges.base import Cost, JudgeBase, Pair, Verdict
from ftlib.fingerprint import JSON, digest
from ftlib.wording import counted
from ftlib.workspace import make_cache, user_cache, write_durably

MOST_UNREAD = 0.2
"""Share of replies that may say nothing: they count as ties, and more of them are no judge."""
CALLS_AT_ONCE = 256
"""Questions between two times that verdicts are kept: what a stopped comparison loses at most."""


def row_scores(judge: JudgeBase, pairs: Sequence[Pair]) -> tuple[list[float], list[tuple[Verdict, Verdict]], Cost]:
    """Return for each pair 1 where the first answer wins, 0 where it loses, halves between; the verdicts; and the cost.

    A pair is asked in both orders, and its score is the mean of both. Raises ModelError for a judge whose replies say
    nothing too often.
    """
    orders = [*pairs, *(pair.swapped() for pair in pairs)] if judge.swaps else [*pairs]
    verdicts, cost = _asked(judge, orders)
    unread = verdicts.count("unread")
    if unread > MOST_UNREAD * max(1, len(verdicts)):
        raise ModelError(
            f"the judge's reply says neither A, B nor C in {unread} of {counted(len(verdicts), 'call')}; give a judge "
            "that follows instructions, or raise max_new_tokens"
        )
    one = verdicts[: len(pairs)]
    other: list[Verdict] = [*map(mirrored, verdicts[len(pairs) :])] if judge.swaps else one
    both: list[tuple[Verdict, Verdict]] = [*zip(one, other, strict=True)]
    return [(_worth(a) + _worth(b)) / 2 for a, b in both], both, cost


def _asked(judge: JudgeBase, pairs: Sequence[Pair]) -> tuple[list[Verdict], Cost]:
    """Ask what was not asked before: each verdict is kept in the user's cache, by the judge and the texts."""
    identity, folder, cost = judge.identity(), make_cache(user_cache() / "verdicts"), Cost()
    files = [folder / f"{digest([identity, *_texts(pair)])[:32]}.json" for pair in pairs]
    verdicts: dict[Path, Verdict] = {file: json.loads(file.read_bytes()) for file in files if file.is_file()}
    new = {file: pair for file, pair in zip(files, pairs, strict=True) if file not in verdicts}
    for start in range(0, len(new), CALLS_AT_ONCE):
        some = dict([*new.items()][start : start + CALLS_AT_ONCE])
        said, spent = judge.verdicts([*some.values()])
        cost = cost.plus(spent)
        for file, verdict in zip(some, said, strict=True):
            verdicts[file] = verdict
            if verdict != "unread":  # the judge may be mended
                write_durably(file, json.dumps(verdict).encode())
    return [verdicts[file] for file in files], cost


def _texts(pair: Pair) -> list[JSON]:
    return [pair.prompt, pair.first, pair.second, pair.reference]


def mirrored(verdict: Verdict) -> Verdict:
    """Return what a verdict says of the pair in the other order."""
    turned: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie", "unread": "unread"}
    return turned[verdict]


def _worth(verdict: Verdict) -> float:
    return {"first": 1.0, "second": 0.0}.get(verdict, 0.5)
