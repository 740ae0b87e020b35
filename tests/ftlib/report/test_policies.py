"""What the report says of a policy, from numbers made up by hand."""

from __future__ import annotations

import json
from pathlib import Path

from ftlib.models.checkpoint import Checkpoint
from ftlib.report.policies import policy_section, warnings
from ftlib.training.objectives.policy import MEASURED

PLAIN = {"reward": (0.2, 0.8), "kl": (0.0, 3.0), "entropy": (2.0, 1.5), "length": (20.0, 22.0), "ended": (0.5, 1.0)}
QUIET = {**PLAIN, "repeated": (0.0, 0.1), "no_signal": (0.0, 0.2)}


def policy(folder: Path, measured: dict[str, tuple[float, float]]) -> Checkpoint:
    records = [
        {"step": step, "loss": 0.0, **{name: ends[0] for name, ends in measured.items()}} for step in range(1, 9)
    ]
    records.append({"step": 8, "validation_reward": 0.5})
    (folder / "curves.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
    facts = {f"{when}_{name}": ends[i] for name, ends in measured.items() for i, when in enumerate(("first", "last"))}
    return Checkpoint(
        uri=str(folder), weights="w", parent=None, tokenizer="t", phase="tune", fresh_head=False, labels=(),
        parameters=1, trained_parameters=1, facts=facts,
    )  # fmt: skip


def test_a_policy_has_a_table_and_curves(tmp_path: Path) -> None:
    section = policy_section([policy(tmp_path, QUIET)], tmp_path)
    assert section is not None
    (table,) = section.tables
    told = {row.cells[0].text: row.cells[1].text for row in table.rows}
    assert len(told) == len(MEASURED)
    assert told["reward"] == "0.2 to 0.8"
    assert told["KL to the start, nats an answer"] == "0 to 3"
    assert section.lead == "What is worth more was drawn, graded and learnt."
    assert (tmp_path / "policy_curves.png").exists()
    base = policy(tmp_path, QUIET).model_copy(update={"facts": {}})
    assert policy_section([base], tmp_path) is None


def test_a_constant_answer_and_length_and_silence_are_spoken_of() -> None:
    assert list(warnings(QUIET)) == []
    loud = {**QUIET, "repeated": (0.1, 0.9), "length": (20.0, 8.0), "no_signal": (0.0, 0.75)}
    constant, shorter, silent = warnings(loud)
    assert constant.startswith("In the end 90% of a step's answers repeat another one: it may be that one constant")
    assert shorter.startswith("Answers became shorter, from 20 to 8 tokens")
    assert silent.startswith("In the end the answers to 75% of the prompts are all worth the same")
