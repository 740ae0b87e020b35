"""The win rate of what a model writes over the rows' own answers: each row's by hand, and what asking cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.progress import Progress, listen
from tests.ftlib.evaluation.judges.endpoint_stub import answers, longer, serving

METRICS: TypeAdapter[Any] = TypeAdapter(Metric)
ROWS = [
    ("longer", "a card for the team", "a card"),
    ("longer", "a card", "a card for the team"),
    ("longer", "a card", "a loan"),
    ("the first", "a card", "a loan"),
    ("the own, or none", "a card", "a loan"),
]
"""Prompts, which say how the judge answers them; what the model writes; the rows' own answers."""
BY_HAND = [1.0, 0.0, 0.5, 0.5, 0.75]
"""Won, lost, and as long; the first place in both orders is half a win; a win and a tie are three quarters of one."""


def say(question: str) -> str:
    asked = question.split("[Request]\n")[1].split("\n\n[Answer A]")[0]
    own_first = answers(question)[0] == "a card"
    return {"longer": longer(question), "the first": "A", "the own, or none": "A" if own_first else "C"}[asked]


def table() -> CompletionOutcomes:
    prompts, predicted, references = zip(*ROWS, strict=True)
    count = len(ROWS)
    return CompletionOutcomes(
        row_ids=tuple(map(str, range(count))),
        nll=np.ones(count),
        targets=np.ones(count, np.int64),
        target_bytes=np.ones(count, np.int64),
        references=references,
        predicted=predicted,
        prompts=prompts,
        ended=(True,) * count,
    )


def test_a_row_is_won_lost_or_half_won_in_both_orders_and_asked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    notes = list[Progress]()
    with serving(say) as stub, listen(notes.append):
        judge = {"kind": "endpoint", "url": stub.url, "model": "m", "attempts": 1}
        metric = METRICS.validate_python({"kind": "win_rate", "judge": judge})
        assert metric.per_row(table()).tolist() == BY_HAND
        orders = {answers(body["messages"][0]["content"]) for body in stub.asked}
        pairs = {(written, own) for _, written, own in ROWS}
        assert orders == pairs | {(own, written) for written, own in pairs}
        (estimate,) = estimates(table(), [metric], Resampling(200, 0.9, 0)).values()
        assert estimate.value == pytest.approx(sum(BY_HAND) / 5)
        assert len(stub.asked) == 10
    (told,) = notes
    assert told.stage == "judge"
    assert told.text.startswith("5 pairs in both orders: 10 calls, 100 tokens read, 10 written, ")
    assert (metric.name, metric.model_copy(update={"called": "x"}).name) == ("win_rate", "win_rate:x")


def test_a_checker_that_no_order_sways_asks_nobody_and_says_nothing_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    notes = list[Progress]()
    judge = {"kind": "reward", "reward": {"kind": "length", "most": 6}}  # a card and a loan are worth the same
    with listen(notes.append):
        found = METRICS.validate_python({"kind": "win_rate", "judge": judge}).per_row(table())
    assert found.tolist() == [0.0, 1.0, 0.5, 0.5, 0.5]
    assert notes == []
