"""What a recipe's policy cannot do is refused before anything starts."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from ftlib.recipe.recipe import Recipe

SOFT = {"kind": "prompt_tuning", "virtual_tokens": 3}


def recipe(**phase: Any) -> dict[str, Any]:
    return {
        "name": "r",
        "model": {"path": "m"},
        "datasets": {
            "d": {
                "source": {"kind": "files", "path": "rows.jsonl"},
                "format": {"kind": "prompt_completion", "prompt": "prompt", "completion": "completion"},
                **({"split": {"test": 0.1}}),
            }
        },
        "phases": [
            {
                "name": "policy",
                "dataset": "d",
                "objective": {"kind": "rloo", "reward": {"kind": "length", "most": 9}},
                "tuning": {"kind": "full"},
                **phase,
            }
        ],
        "evaluations": {"e": {"dataset": "d", "metrics": [{"kind": "perplexity"}]}},
        "select": {"by": "e/perplexity"},
        "publish": {"name": "r"},
    }


def refused(values: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(values)
    return str(caught.value)


def test_what_does_not_fit_answers_that_are_drawn_is_named() -> None:
    assert Recipe.model_validate(recipe()).phases[0].objective.kind == "rloo"
    assert "phases[policy].tuning: 'rloo' draws no samples under a soft prompt" in refused(recipe(tuning=SOFT))
    packed = refused(recipe(optimizer={"kind": "adamw", "batch_tokens": 99}))
    assert "phases[policy].optimizer.batch_tokens: how long answers are is not known" in packed
    own = refused(recipe(self_kl=0.5, ema_decay=0.9))
    assert "phases[policy].self_kl: compares answers to the rows" in own
    dropped = refused(recipe(dropout=0.1, tuning={"kind": "lora", "dropout": 0.2}))
    assert "phases[policy].dropout: 0.1, but 'rloo' learns from answers that are drawn without dropout" in dropped
    assert "phases[policy].tuning.dropout: 0.2, but 'rloo'" in dropped
    written = refused(recipe(answers={"model": {"path": "m"}}))
    assert "phases[policy].answers: 'rloo' learns from answers that it draws itself" in written
    assert "compute.compile: 'rloo' of phase 'policy'" in refused({**recipe(), "compute": {"compile": True}})
    alone = recipe()
    alone["datasets"]["d"]["format"]["completion"] = None
    assert "evaluations.e: 'perplexity' reads the rows' own answers" in refused(alone)
    alone["evaluations"]["e"] |= {
        "metrics": [{"kind": "reward", "reward": {"kind": "length", "most": 9}}],
        "max_new_tokens": 8,
    }
    alone["select"]["by"] = "e/reward"
    assert Recipe.model_validate(alone).datasets["d"].format.asks_alone
    alone["phases"][0]["objective"]["reward"] = {"kind": "exact_match"}
    assert "phases[policy].objective.reward: exact_match compares with a row's own answer" in refused(alone)
    alone["phases"][0]["objective"] = {"kind": "completion"}
    assert "phases[policy]: 'completion' learns answers, but the rows of 'd' are prompts alone" in refused(alone)
    curve = refused({**recipe(), "learning_curve": {}})
    assert "learning_curve: phase 'policy' learns by 'rloo' from answers that it draws" in curve
    lone = refused(recipe(objective={"kind": "grpo", "reward": {"kind": "length", "most": 9}, "group_size": 1}))
    assert "an answer is compared with the others to its prompt; draw 2 or more" in lone


def test_a_reward_model_is_a_companion_from_elsewhere() -> None:
    asked = {"kind": "rloo", "reward": {"kind": "model"}}
    assert "'rloo' asks reward, got" in refused(recipe(objective=asked))
    good = recipe(objective=asked, companions={"reward": {"model": {"path": "judge"}}})
    assert Recipe.model_validate(good).phases[0].companions.keys() == {"reward"}
    before = refused(recipe(objective=asked, companions={"reward": {"phase": "base"}}))
    assert "phases[policy].companions.reward: gives a reward, and 'base' is no reward model" in before
