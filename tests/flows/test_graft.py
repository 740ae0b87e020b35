"""What a base model learnt, carried to its instruct model: a whole run, dense and as an adapter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from flows.command_line.main import main
from flows.run.steps import inputs, steps
from flows.run.values import Outcome
from ftlib.errors import RecipeError
from ftlib.models.folder import find_model
from ftlib.progress import Progress, listen
from ftlib.recipe.file import load_recipe
from ftlib.registry import ModelRegistry
from ftlib.registry.outcome import ModelVersion
from ftlib.stages.step import walk
from ftlib.testing import tiny_causal_lm, tiny_prompts, write_jsonl
from ftlib.workspace import Workspace


def related(base: Path, folder: Path, step: float) -> Path:
    """Write the instruct model of a base: each weight a random share of its size away."""
    tiny_causal_lm(folder)
    tensors = load_file(base / "model.safetensors")
    generator = torch.Generator().manual_seed(7)
    moved = {n: t * (1 + step * torch.randn(t.shape, generator=generator)) for n, t in tensors.items()}
    save_file(moved, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    # The tokens are the base's, and what lies beside them is not, as of real pairs.
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    return folder


def written(folder: Path, tuning: dict[str, Any], step: float = 0.02, **interpolation: Any) -> Path:
    base = tiny_causal_lm(folder / "base")
    onto = related(base, folder / "instruct", step)
    write_jsonl(folder / "rows.jsonl", tiny_prompts(80))
    recipe = {
        "name": "graft",
        "model": {"path": str(base)},
        "datasets": {
            "rows": {
                "source": {"kind": "files", "path": str(folder / "rows.jsonl")},
                "format": {
                    "kind": "prompt_completion",
                    "prompt": "prompt",
                    "completion": "completion",
                    "max_tokens": 48,
                },
            }
        },
        "phases": [
            {
                "name": "tune",
                "dataset": "rows",
                "objective": {"kind": "completion"},
                "tuning": tuning,
                "optimizer": {"epochs": 1, "learning_rate": 1e-3},
            }
        ],
        "evaluations": {"rows": {"dataset": "rows", "metrics": [{"kind": "perplexity"}], "resamples": 100}},
        "interpolation": {"kind": "graft", "onto": {"path": str(onto)}, "scales": [1.0], **interpolation},
        "select": {"rule": "best", "by": "rows/perplexity"},
        "publish": {"name": "grafted", "to": {"kind": "folder", "path": str(folder / "registry")}},
        "compute": {"workers": 0, "threads": 1},
    }
    path = folder / "graft.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(path: Path) -> tuple[Outcome, list[str]]:
    recipe, work, heard = load_recipe(path), Workspace(path.parent / "work"), list[Progress]()
    with listen(heard.append):
        outcome = walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
    assert outcome is not None
    return outcome, [one.text for one in heard if one.stage == "distance"]


def numbers(folder: Path) -> dict[str, np.ndarray]:
    return {name: t.double().numpy() for name, t in load_file(folder / "model.safetensors").items()}


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(input_ids=torch.tensor([[2, 7, 9, 11, 3], [2, 8, 5, 31, 3]])).logits


@pytest.mark.slow
def test_a_run_carries_what_the_base_learnt_to_the_instruct_model(tmp_path: Path) -> None:
    outcome, said = run(written(tmp_path, {"kind": "full"}))
    members = outcome.evidence.candidates.members
    assert [member.name for member in members] == ["onto", "graft=1", "tune"]
    base, onto = numbers(tmp_path / "base"), numbers(tmp_path / "instruct")
    apart = sum(np.abs(base[n] - onto[n]).sum() for n in base) / sum(
        np.abs(base[n]).sum() + np.abs(onto[n]).sum() for n in base
    )
    assert 0.005 < apart < 0.02
    assert said == [
        f"{tmp_path}/instruct lies {apart:.4f} from {tmp_path}/base, by sum |a - b| / (sum |a| + sum |b|); grafts are "
        "sensible below 0.05"
    ]
    assert isinstance(outcome.result, ModelVersion)
    grafted = members[1]
    from ftlib.merging.candidate_weights import write_candidate

    write_candidate(grafted, tmp_path / "out")
    tuned, got = numbers(members[2].end.folder), numbers(tmp_path / "out")
    for name in got:
        np.testing.assert_allclose(got[name], onto[name] + tuned[name] - base[name], rtol=1e-6, atol=1e-7)
    assert {cell.candidate for report in outcome.evidence.final for cell in report.measured} >= {"base", "tune", "onto"}


def test_an_adapter_is_put_over_the_instruct_model(tmp_path: Path) -> None:
    path = written(tmp_path, {"kind": "lora", "rank": 2, "keep": "adapter"})
    recipe = yaml.safe_load(path.read_text())
    recipe["optimizer"] = recipe["phases"][0]["optimizer"].update(learning_rate=1e-2)
    del recipe["optimizer"]
    path.write_text(yaml.safe_dump(recipe))
    outcome, _ = run(path)
    grafted = outcome.evidence.candidates.members[1]
    assert grafted.end.base
    assert (grafted.name, grafted.end.base.name) == ("graft=1", f"{tmp_path}/instruct")
    from ftlib.merging.in_memory import model_of

    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "instruct")
    theirs: Any = peft.PeftModel.from_pretrained(stock, grafted.end.folder)
    torch.testing.assert_close(logits(model_of(grafted, "completions")), logits(theirs), rtol=0, atol=1e-6)
    assert isinstance(outcome.result, ModelVersion)
    registry = ModelRegistry(load_recipe(path).publish.to.store())
    manifest = registry.manifest(registry.version("grafted"))
    page = next((tmp_path / "work/stages/report").rglob("report.md")).read_text()
    registry.pull(registry.version("grafted"), tmp_path / "pulled")
    card = (tmp_path / "pulled" / "README.md").read_text()
    assert "since the base model" not in page
    assert "from those of onto" in page or "the very weights of onto" in page  # what a graft may forget is onto's
    if outcome.evidence.selection.chosen.name == "graft=1":
        assert "1 times the adapter of `tune`, put over" in card
        assert "This is Shadow-FT" in card
        assert "WiSE" not in card
        assert manifest.base
        assert manifest.base.weights == find_model(load_recipe(path).interpolation.carried_to.model).weights  # type: ignore[union-attr]


def test_a_model_that_lies_too_far_is_refused_before_training(tmp_path: Path) -> None:
    path = written(tmp_path, {"kind": "full"}, step=0.5)
    recipe, work = load_recipe(path), Workspace(tmp_path / "work")
    with pytest.raises(RecipeError, match=r"interpolation.onto: .* lies 0\.\d+ from .*, and 0.05 is allowed"):
        walk(steps(recipe, work, inputs(recipe, work)), lambda step: step.stage(step.job, work))
    assert not list((tmp_path / "work").glob("stages/train/*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prune": {"dataset": "rows", "layers": 1}}, "prune changes the model's alone"),
        ({"retrain": {"start": "champion"}}, "starts from the base every time"),
        ({"tuning": {"modules_to_save": ["lm_head"]}}, "modules_to_save as they ended; set keep: merged"),
        ({"tuning": {"kind": "ia3"}}, "the adapter of 'ia3' would bring more than one"),
        ({"phases": 2}, "carries what one phase did to the recipe's model, got 2 phases"),
    ],
)
def test_what_cannot_be_carried(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, {"kind": "full"})
    recipe = yaml.safe_load(path.read_text())
    if change == {"phases": 2}:
        change = {"phases": [{**recipe["phases"][0], "name": "first"}, recipe["phases"][0]]}
    if tuning := change.get("tuning"):
        change = {"phases": [{**recipe["phases"][0], "tuning": {"kind": "lora", "keep": "adapter", **tuning}}]}
    path.write_text(yaml.safe_dump({**recipe, **change}))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


@pytest.mark.parametrize(
    ("onto", "message"),
    [
        (
            {"path": "models/absent/instruct"},
            "model folder 'models/absent/instruct' does not exist; give a folder, package",
        ),
        (
            {"path": "models/absent"},
            "'models/absent' is no folder here, so it comes from the hub, where `revision` must",
        ),
        ({"path": "package:ftlib/absent"}, "package 'ftlib' has no folder 'absent'; name one that it has"),
        ({"path": "."}, "config.json"),
    ],
)
def test_check_refuses_a_model_that_is_not_there(
    onto: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, {"kind": "full"})
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["check", str(path)]).exit_code == 0
    refused = CliRunner().invoke(main, ["check", str(path), f"--set=interpolation.onto={json.dumps(onto)}"])
    assert refused.exit_code == 2, refused.output
    (line,) = refused.stderr.strip().splitlines()
    assert "interpolation.onto.path: " in line
    assert message in line


def test_check_leaves_to_a_run_what_lies_elsewhere(tmp_path: Path) -> None:
    path = written(tmp_path, {"kind": "full"})
    of_hub = json.dumps({"path": "org/instruct", "revision": "0" * 40})
    assert CliRunner().invoke(main, ["check", str(path), f"--set=interpolation.onto={of_hub}"]).exit_code == 0
