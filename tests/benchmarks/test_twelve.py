"""The twelve fine-tunes: nothing that is asked about was trained on, and merges are of what they are named after."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from benchmarks.evidence import twelve
from ftlib.data.sources.passages import Library


def test_no_module_is_on_both_sides_and_a_fifth_is_held_back() -> None:
    modules = {one.text: one.module for one in Library("rich").docstrings(60)}
    train, held = twelve._passages("rich", 60, 0)
    assert len(held) >= 60 / 5
    assert not {modules[text] for text in train} & {modules[text] for text in held}
    assert twelve._passages("rich", 60, 1) != (train, held)


@pytest.mark.slow
def test_merges_are_of_what_they_are_named_after(tmp_path: Path) -> None:
    tokenizer = twelve._tokenizer(["a few words", "to be cut into pieces"])
    models = [twelve._random(tokenizer) for _ in range(3)]
    folders = [twelve._saved(model, tokenizer, tmp_path / str(at)) for at, model in enumerate(models)]
    twelve._merge(folders[1:], tmp_path / "average", "average", {"ingredients": [0, 1]})
    twelve._merge(folders[:2], tmp_path / "ties", "ties", {"density": 1.0, "scale": 1.0})
    states = [model.state_dict() for model in models]
    average, ties = (twelve._loaded(tmp_path / name).state_dict() for name in ("average", "ties"))
    for name in states[0]:
        torch.testing.assert_close(average[name], (states[1][name] + states[2][name]) / 2)
        torch.testing.assert_close(ties[name], states[1][name])  # all of one difference is that fine-tune


@pytest.mark.slow
def test_every_arm_is_measured(tmp_path: Path) -> None:
    quick = {"steps": 3, "batch": 4, "rate": 1e-3}
    settings = {
        **{"base": ["rich"], "libraries": ["peft", "prefect"], "rows": 60, "learn": quick, "tune": quick},
        **{"counts": [2], "densities": [0.1]},
    }
    arms = twelve.measure(0, tmp_path, settings).arms
    assert arms.keys() == {"base", "single", "average_2", "ties_2_10"}
    assert len({arm["tasks/log_loss"] for arm in arms.values()}) == 4
    assert all(0 < value < 1.1 * math.log(twelve.PIECES) for arm in arms.values() for value in arm.values())
