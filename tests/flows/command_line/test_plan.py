"""What a plan says of trainings whose model or whose trained layers are not the base model's."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pytest
import torch

from flows.planning.facts import RunPlan
from flows.planning.plan import make_plan
from ftlib.errors import RecipeError
from ftlib.on_ray import cluster
from ftlib.recipe.file import load_recipe
from ftlib.testing import tiny_chat_lm, tiny_preferences, tiny_recipe, write_jsonl
from ftlib.training.memory.process_bytes import PROCESS
from ftlib.workspace import Workspace

pytestmark = pytest.mark.slow  # a second of matrix products for every plan


def test_stages_of_gradual_unfreezing_and_a_model_without_a_layer(tmp_path: Path) -> None:
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    asked = ["phases.tune.tuning={kind: gradual_unfreezing}", "phases.tune.optimizer.epochs=3"]
    plan = make_plan(load_recipe(path, asked), work, prepare=True)
    tune, batch = plan.phases[1], load_recipe(path, asked).phases[1].optimizer.batch_size
    epoch = ceil(tune.rows / batch)
    assert [thaw.step for thaw in tune.thaws] == [1 + i * epoch for i in range(4)]
    assert [thaw.steps for thaw in tune.thaws] == [epoch, epoch, epoch, 0]
    sizes = [thaw.trained for thaw in tune.thaws]
    assert sizes == sorted(sizes)
    assert sizes[-1] == tune.trained == tune.parameters
    assert tune.seconds == max(0.1, round(sum(thaw.seconds for thaw in tune.thaws), 1))

    less = make_plan(load_recipe(path, ["prune={dataset: home, layers: 1}"]), work, prepare=True)
    whole = make_plan(load_recipe(path), work, prepare=True)
    assert [stage.stage for stage in less.stages].index("prune") == [s.stage for s in whole.stages].index("base") + 1
    layer = tune.thaws[2].trained - tune.thaws[1].trained  # the lower layer alone
    assert less.phases[1].parameters == whole.phases[1].parameters - layer
    assert less.phases[1].memory["weights"] == whole.phases[1].memory["weights"] - 4 * layer
    assert not less.phases[1].thaws


def test_a_plan_on_a_card_has_its_precision_its_room_and_its_speed(tmp_path: Path) -> None:
    """A T4 computes no bf16, so its speed is not on the data sheet either; an H100 has both."""
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    old, new = (make_plan(load_recipe(path), work, prepare=True, card=name) for name in ("t4-16", "H100-80"))
    assert [phase.precision for phase in old.phases] == ["fp32", "fp32"]
    assert [phase.precision for phase in new.phases] == ["bf16", "bf16"]
    for plan, memory in ((old, 16 * 10**9), (new, 80 * 10**9)):
        assert {(phase.fits, phase.room_bytes) for phase in plan.phases} == {("yes", memory)}
        assert all(0 < phase.memory_bytes < memory for phase in plan.phases)
    assert "data sheet of H100-80: 989 TFLOP/s in bf16" in new.speed
    assert "data sheet" not in old.speed
    asked = load_recipe(path, ["phases.tune.precision=bf16"])
    with pytest.raises(RecipeError, match=r"phases\[tune\].precision: bf16, which T4-16 does not compute; set it to"):
        make_plan(asked, work, card="T4-16")


def test_a_fisher_information_holds_weights_gradient_and_squares(tmp_path: Path) -> None:
    path, work = tiny_recipe(tmp_path), Workspace(tmp_path / "work")
    ewc = ["phases.tune.penalty={kind: ewc, datasets: [home], rows: 9}", "publish.fisher={datasets: [home]}"]
    plan = make_plan(load_recipe(path, ewc), work, prepare=True)
    tune, publish = plan.scorings
    assert [tune.name, publish.name] == ["fisher for tune", "fisher to publish"]
    assert {tune.name, publish.name} <= {stage.stage for stage in plan.stages}
    assert tune.rows == 9
    assert publish.rows == plan.phases[1].rows
    assert tune.memory_bytes - PROCESS["cpu"] == 12 * plan.phases[1].parameters


WRITTEN = """
name: written
model: {{path: {folder}/model}}
datasets:
  one: &rows
    source: {{kind: files, path: {folder}/one.jsonl}}
    format: {format}
  two: {{<<: *rows, source: {{kind: files, path: {folder}/two.jsonl}}}}
phases:
  - name: prefer
    mixture: {{one: 1, two: 1}}
    mixing: {{batches: {batches}}}
    objective: {{kind: dpo}}
    scores: {{reference: {{phase: base}}}}
    tuning: {{kind: lora}}
    optimizer: {{epochs: 1, batch_size: 16}}
    principles: {principles}
evaluations: {{fit: {{dataset: one, metrics: [{{kind: {metric}}}]}}}}
select: {{by: fit/{metric}}}
compute: {{workers: 0, threads: 1}}
publish: {{name: written}}
"""


def test_pairs_whose_numbers_are_not_there_yet_are_counted(tmp_path: Path) -> None:
    """A reference's, in batches of two datasets too; and pairs that principles have still to make of prompts."""
    tiny_chat_lm(tmp_path / "model")
    (tmp_path / "principles.txt").write_text("Be short.\nSay please.\n")
    pairs = "{kind: preference, prompt: prompt, chosen: chosen, rejected: rejected, max_tokens: 60}"
    prompts = "{kind: prompt_completion, prompt: prompt, completion: chosen, max_tokens: 60}"
    for seed, name in enumerate(("one", "two")):
        write_jsonl(tmp_path / f"{name}.jsonl", tiny_preferences(40, seed=seed))

    def planned(format: str, metric: str, batches: str, principles: str = "null") -> RunPlan:
        words = {"format": format, "metric": metric, "batches": batches, "principles": principles}
        (tmp_path / "r.yaml").write_text(WRITTEN.format(folder=tmp_path, **words))
        return make_plan(load_recipe(tmp_path / "r.yaml"), Workspace(tmp_path / "work"), prepare=True)

    for batches in ("mixed", "apart"):
        assert planned(pairs, "preference_accuracy", batches).phases[0].fits == "yes"
    asked = f"{{file: {tmp_path}/principles.txt, max_new_tokens: 20}}"
    plan = planned(prompts, "perplexity", "apart", asked)
    (phase,) = plan.phases
    facts = [one.facts for one in plan.stages if one.stage.startswith("preprocess")]
    rows = sum(int(one.split()[1].rstrip(",")) for one in facts)  # "train 27, validation 5, test 8 rows"
    assert (phase.fits, phase.rows) == ("yes", 2 * rows)
    assert phase.tokens > 2 * 2 * rows * (20 + 1)
    assert phase.steps == sum(ceil(2 * int(one.split()[1].rstrip(",")) / 16) for one in facts)
    assert sum(one.rows for one in plan.scorings if one.name.startswith("score")) > phase.rows


def test_beside_a_cluster_of_gpus_the_room_is_unknown_without_a_card(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cluster, "check_cluster", lambda *_: None)
    there = ["compute={workers: 2, use_gpu: true, ray_address: 'http://head:8265'}"]
    recipe, work = load_recipe(tiny_recipe(tmp_path), there), Workspace(tmp_path / "work")
    probe, tune = make_plan(recipe, work, prepare=True).phases
    assert probe.fits == "yes"  # it is solved by this machine's CPU
    assert (tune.room_bytes, tune.fits) == (None, "unknown: torch sees no GPU here; name one by --card")
    assert tune.memory_bytes > PROCESS["cuda"]
    assert make_plan(recipe, work, card="H100-80").phases[1].fits == "yes"
