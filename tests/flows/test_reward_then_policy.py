"""A reward model and the policy that learns from it, in one recipe: two phases that both start from the base model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from flows.command_line.main import main
from flows.planning.plan import make_plan
from flows.run.steps import inputs, steps
from flows.run.values import Outcome
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.step import Step, walk
from ftlib.stages.train import TrainJob
from ftlib.testing import tiny_causal_lm, tiny_preferences, tiny_prompts, write_jsonl
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.scoring import load_reward_model
from ftlib.workspace import Workspace


def written(folder: Path) -> dict[str, Any]:
    """Write rows and a model; return a recipe whose first phase learns what its second one is graded by."""
    tiny_causal_lm(folder / "model")
    write_jsonl(folder / "pairs.jsonl", tiny_preferences(80))
    write_jsonl(folder / "prompts.jsonl", tiny_prompts(40, seed=3))
    compared = {"kind": "compared_texts", "prompt": "prompt", "chosen": "chosen", "rejected": "rejected"}
    asked = {"kind": "prompt_completion", "prompt": "prompt", "completion": "completion", "max_tokens": 48}
    return {
        "name": "rlhf",
        "model": {"path": str(folder / "model")},
        "datasets": {
            "pairs": {
                "source": {"kind": "files", "path": str(folder / "pairs.jsonl")},
                "format": {**compared, "separator": " | ", "max_tokens": 64},
                "split": {"validation": 0.2, "test": 0.0},
            },
            "prompts": {"source": {"kind": "files", "path": str(folder / "prompts.jsonl")}, "format": asked},
        },
        "phases": [
            {
                "name": "judge",
                "dataset": "pairs",
                "objective": {"kind": "reward"},
                "tuning": {"kind": "full"},
                "optimizer": {"epochs": 1, "learning_rate": 1e-3},
            },
            {
                "name": "policy",
                "start": "base",
                "dataset": "prompts",
                "objective": {"kind": "rloo", "reward": {"kind": "model"}, "group_size": 2, "max_new_tokens": 4},
                "companions": {"reward": {"phase": "judge"}},
                "tuning": {"kind": "full"},
                "optimizer": {"epochs": 1, "learning_rate": 1e-3, "batch_size": 8},
            },
        ],
        "evaluations": {"fit": {"dataset": "prompts", "metrics": [{"kind": "perplexity"}], "resamples": 100}},
        "interpolation": {"kind": "wise_ft", "alphas": [0, 0.5, 1]},
        "select": {"by": "fit/perplexity"},
        "publish": {"name": "policy", "to": {"kind": "folder", "path": str(folder / "registry")}},
        "compute": {"workers": 0, "threads": 1},
    }


def ran(folder: Path, recipe: dict[str, Any]) -> tuple[Outcome, list[Step], Recipe]:
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    loaded, work, done = load_recipe(folder / "recipe.yaml"), Workspace(folder / "work"), list[Step]()

    def run(one: Step) -> Any:
        done.append(one)
        return one.stage(one.job, work)

    outcome = walk(steps(loaded, work, inputs(loaded, work)), run)
    assert outcome is not None
    return outcome, done, loaded


@pytest.mark.slow
def test_a_policy_learns_from_the_reward_model_of_an_earlier_phase(tmp_path: Path) -> None:
    outcome, done, recipe = ran(tmp_path, written(tmp_path))
    evidence = outcome.evidence
    assert [one.phase for one in evidence.checkpoints] == ["base", "policy"]
    assert [one.phase for one in evidence.aside] == ["judge-start", "judge"]
    base, policy, judge = evidence.checkpoints[0], evidence.checkpoints[1], evidence.aside[1]
    assert policy.parent == base.weights  # and not what the reward model's body became
    assert evidence.companions["policy"]["reward"].weights == judge.weights
    trained = {one.job.phase.name: one.job for one in done if isinstance(one.job, TrainJob)}
    assert trained["policy"].companions["reward"].weights == judge.weights
    assert isinstance(outcome.result, ModelVersion)

    # What stock transformers says of the rows' own layout, its separator included, is what the policy was graded by.
    stock: Any = AutoModelForSequenceClassification.from_pretrained(judge.folder)
    tokenizer = AutoTokenizer.from_pretrained(judge.folder)
    answered = [Answered("Where is it?", "please ask the billing team"), Answered("It broke", "ask the bug team")]
    formats = trained["policy"].formats
    ours = load_reward_model(judge, None, formats["reward"]).scores(answered)
    for one, score in zip(answered, ours, strict=True):
        ids = tokenizer(f"{one.prompt} | {one.answer}", add_special_tokens=True)["input_ids"]
        ids = ids if ids[-1] == tokenizer.eos_token_id else [*ids, tokenizer.eos_token_id]
        with torch.inference_mode():
            theirs = stock.eval()(input_ids=torch.tensor([ids])).logits[0, 0].item()
        assert score == pytest.approx(theirs, abs=1e-5)

    page = next((tmp_path / "work/stages/report").rglob("report.md")).read_text()
    assert "judge" in page
    again, _, _ = ran(tmp_path, recipe.model_dump(mode="json"))
    assert again.evidence.checkpoints[1].fingerprint == policy.fingerprint
    assert trainings(tmp_path, recipe) == ["done", "done"]
    judged = recipe.phases[0].model_copy(update={"dropout": 0.1})
    other = recipe.model_copy(update={"phases": (judged, recipe.phases[1])})
    assert "done" not in trainings(tmp_path, other)  # another reward model is another policy


def trainings(folder: Path, recipe: Recipe) -> list[str]:
    stages = make_plan(recipe, Workspace(folder / "work")).stages
    return [stage.state for stage in stages if stage.stage.split()[0] == "train"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"companions": {"reward": {"phase": "judges"}}},
            "'judges' is no end of an earlier phase; there are base, j",
        ),
        (
            {"companions": {"reward": {"phase": "policy"}}},
            "'policy' is no end of an earlier phase; there are base, j",
        ),
        (
            {"companions": {"reward": {"phase": "base"}}},
            "'base' is no reward model; give an earlier phase with",
        ),
        ({"start": None}, "would start where 'judge' ended, which scores texts and writes none; give it start: base"),
        (
            {"objective": {"kind": "rloo", "reward": {"kind": "length", "most": 9}}, "companions": {}},
            "phases[policy].start: base, and no later phase asks what 'judge' made before it",
        ),
    ],
)
def test_check_says_what_is_no_reward_model(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    recipe = written(tmp_path)
    recipe["phases"][1] |= change
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused = CliRunner().invoke(main, ["check", str(tmp_path / "recipe.yaml")])
    assert refused.exit_code == 2, refused.output
    assert message in refused.stderr


def test_a_phase_that_learns_answers_is_no_reward_model(tmp_path: Path) -> None:
    recipe = written(tmp_path)
    judge = recipe["phases"][0]
    tuned = {**judge, "name": "tuned", "dataset": "prompts", "objective": {"kind": "completion"}}
    recipe["phases"] = [judge, {**tuned, "start": "base"}, recipe["phases"][1]]
    recipe["phases"][2]["companions"] = {"reward": {"phase": "tuned"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    refused = CliRunner().invoke(main, ["check", str(tmp_path / "recipe.yaml")])
    assert "gives a reward, and 'tuned' is no reward model; give an earlier phase" in refused.stderr
    assert "there are judge" in refused.stderr
