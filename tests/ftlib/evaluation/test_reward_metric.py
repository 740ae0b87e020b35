"""The mean reward of what a model writes, as a metric that recipes select by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from ftlib.errors import DataError
from ftlib.evaluation.bootstrap import Resampling, estimates
from ftlib.evaluation.metrics import Metric
from ftlib.kinds.outcomes import CompletionOutcomes
from ftlib.kinds.outcomes_file import parse_outcomes

METRICS: TypeAdapter[Any] = TypeAdapter(Metric)


def table(**fields: Any) -> CompletionOutcomes:
    given: dict[str, Any] = {
        "row_ids": ("a", "b", "c"),
        "nll": np.ones(3),
        "targets": np.ones(3, np.int64),
        "target_bytes": np.ones(3, np.int64),
        "references": ("Paris", "Rome", "Oslo"),
        "predicted": ("Paris", "rome", "x"),
        "prompts": ("France?", "Italy?", "Norway?"),
        "ended": (True, True, False),
    }
    return CompletionOutcomes(**{**given, **fields})


def test_the_mean_is_that_of_the_reward_with_the_houses_interval() -> None:
    metric = METRICS.validate_python({"kind": "reward", "reward": {"kind": "exact_match", "loosely": True}})
    assert metric.per_row(table()).tolist() == [1, 1, 0]
    (estimate,) = estimates(table(), [metric], Resampling(200, 0.9, 0)).values()
    assert estimate.numbers() == pytest.approx((1 / 3, 2 / 3, 1.0), abs=0.01)
    assert (metric.name, metric.model_copy(update={"called": "x"}).name) == ("reward", "reward:x")


def test_a_function_is_told_prompt_reference_and_whether_the_answer_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grade = "len(a.prompt) + 100 * (a.reference == a.answer) - a.ended"
    words = f"def told(answered):\n    return [{grade} for a in answered]\n"
    (tmp_path / "told_rewards.py").write_text(words)
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = {"kind": "python", "function": "told_rewards:told", "time_limit": 60}
    metric = METRICS.validate_python({"kind": "reward", "reward": reward})
    assert metric.per_row(table()).tolist() == [106, 5, 7]


def test_the_table_keeps_what_was_asked_and_older_ones_say_that_they_did_not() -> None:
    again = parse_outcomes(table().to_parquet())
    assert isinstance(again, CompletionOutcomes)
    assert again.said() == table().said()
    assert again.take(np.array([2])).said() == (("Norway?",), ("x",), (False,))
    older = parse_outcomes(table(prompts=None, ended=None).to_parquet())
    assert isinstance(older, CompletionOutcomes)
    assert older.written() == table().written()
    with pytest.raises(DataError, match="hold no prompts"):
        METRICS.validate_python({"kind": "reward", "reward": {"kind": "exact_match"}}).per_row(older)
