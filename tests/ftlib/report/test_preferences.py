"""What the report says of both sides of a preference, from numbers made up by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlib.models.checkpoint import Checkpoint
from ftlib.report.preferences import preference_section, warnings


def phase(folder: Path, name: str, **series: list[float]) -> Checkpoint:
    (own := folder / name).mkdir()
    records = [
        {"step": step + 1, "loss": 0.5, **{key: values[step] for key, values in series.items()}}
        for step in range(len(next(iter(series.values()))))
    ]
    (own / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    return Checkpoint(
        uri=str(own), weights="w", parent=None, tokenizer="t", phase=name, fresh_head=False, labels=(), parameters=1,
        trained_parameters=1,
    )  # fmt: skip


def test_a_phase_of_preferences_has_a_table_and_curves(tmp_path: Path) -> None:
    rising = [float(step) for step in range(20)]
    pairs = phase(tmp_path, "pairs", chosen_reward=rising, reward_accuracy=[0.5] * 10 + [0.9] * 10)
    thumbs = phase(tmp_path, "thumbs", wanted_reward=rising, z0=[0.25] * 20)
    section = preference_section([pairs, thumbs], tmp_path)
    assert section is not None
    (table,) = section.tables
    told = {row.cells[0].text: [cell.text for cell in row.cells[1:]] for row in table.rows}
    assert told == {
        "reward of the chosen answers": ["0.5 to 18.5", ""],
        "reward of the answers that were wanted": ["", "0.5 to 18.5"],
        "pairs whose chosen answer gained more": ["0.5 to 0.9", ""],
        "z0, nats an answer": ["", "0.25 to 0.25"],
    }
    assert section.lead == "What is preferred was learnt from both sides of it."
    assert (tmp_path / "preference_curves.png").exists()
    assert preference_section([phase(tmp_path, "plain", loss=[1.0, 0.5])], tmp_path) is None


@pytest.mark.parametrize("name", ["chosen_reward", "wanted_reward"])
def test_answers_that_became_less_likely_are_spoken_of(name: str) -> None:
    assert list(warnings({name: (0.0, 1.0), "reward_accuracy": (0.5, 0.8)})) == []
    (sentence,) = warnings({name: (0.0, -2.0)})
    assert "are less likely than before the phase" in sentence
    (done,) = warnings({"reward_accuracy": (0.5, 1.0)})
    assert done.startswith("In the end every pair of the training rows is in order")
