"""Phases that do not fit: what they train on, and what beside the loss pulls at the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_recipe

MIXED = ["phases.tune.dataset=null", "phases.tune.mixture={home: 3, away: 1}", "datasets.away.split.test=0.25"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


def loaded(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides)


def test_every_part_of_a_mixture_is_a_training_dataset(written: Path) -> None:
    recipe = loaded(written, *MIXED)
    assert recipe.training_datasets() == ("home", "away")
    assert recipe.phases[1].parts == {"away": 0.25, "home": 0.75}
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["phases.tune.mixture={home: 1, gone: 2}"], "phases[tune].mixture: 'gone' is not a dataset; there are away"),
        (["phases.tune.dataset=home"], "phases[tune]: give `dataset`, or a `mixture` of several with their weights"),
        (["phases.tune.mixture.away=-1"], "phases[tune].mixture.away: input should be greater than 0, got -1"),
        (["phases.tune.tuning={kind: linear_probe}"], "phases[tune].mixture: is drawn from step by step, but"),
        (
            ["datasets.away.format={kind: plain_text, text: text}"],
            "phases[tune]: 'classification' needs 'labeled' batches, but dataset 'away' has format 'plain_text'",
        ),
        (
            ["phases.tune.early_stopping={}", "datasets.home.split.validation=0", "datasets.away.split.validation=0"],
            "phases[tune]: early_stopping watches the validation loss, but 'away', 'home' have validation: 0",
        ),
        (
            ["phases.tune.tuning={kind: lora}", "phases.tune.penalty={kind: l2_sp}"],
            "phases[tune].penalty: 'l2_sp' pulls",
        ),
        (
            ["phases.tune.tuning={kind: p_tuning}", "phases.tune.penalty={kind: l2_sp}"],
            "phases[tune].penalty: 'l2_sp' pulls",
        ),
        (
            ["phases.tune.tuning={kind: prompt_tuning}"],
            "phases[tune].tuning: ends in an adapter that cannot be scaled; use interpolation: off",
        ),
        (
            ["phases.tune.tuning={kind: prefix_tuning}", "compute.activation_checkpointing=full"],
            "compute.activation_checkpointing: a layer that is computed again would see the keys of 'prefix_tuning'",
        ),
        (
            ["phases.tune.tuning={kind: prefix_tuning}", "compute.pack_tokens=64"],
            "compute.pack_tokens: tuning 'prefix_tuning' of phase 'tune' puts its prompt before a row",
        ),
        (
            ["phases.tune.tuning={kind: prompt_tuning}", "publish.adapter=true"],
            "publish.adapter: 'tune' ends in an adapter, so the version is one; remove it",
        ),
        (
            ["phases.probe.tuning={kind: p_tuning}"],
            "phases[tune].tuning: 'full' starts from the adapter of 'probe', an",
        ),
        (
            ["phases.probe.tuning={kind: p_tuning}", "phases.tune.tuning={kind: p_tuning}"],
            "phases[tune].tuning: 'p_tuning' starts from the adapter of 'probe' and cannot go on with one of 'p_tun",
        ),
        (
            ["phases.probe.tuning={kind: ia3, keep: adapter}", "phases.tune.tuning={kind: lora, keep: adapter}"],
            "phases[tune].tuning: 'lora' starts from the adapter of 'probe' and cannot go on with one of 'ia3'; use i",
        ),
        (["phases.tune.tuning={kind: ia3, targets: [key]}"], "phases[tune].tuning: targets and feedforward are named"),
        (["phases.probe.penalty={kind: l2_sp}"], "phases[probe].penalty: 'l2_sp' acts on steps, but 'linear_probe'"),
        (["phases.tune.penalty={kind: ewk}"], "phases[tune].penalty.kind: unknown kind 'ewk'; did you mean 'ewc'?"),
        (["phases.tune.penalty={alpha: 1}"], "phases[tune].penalty: needs a kind; allowed: ewc, l2_sp, spd"),
        (["phases.tune.penalty={kind: ewc, datasets: [hom]}"], "phases[tune].penalty.datasets: 'hom' is not a dataset"),
        (["phases.tune.penalty={kind: ewc}"], "phases[tune].penalty: the Fisher information that the base model carri"),
        (["phases.tune.penalty={kind: l2_sp, alpha: -1}"], "phases[tune].penalty.alpha: input should be greater than"),
        (["phases.tune.companions={t: {phase: tun}}"], "phases[tune].companions: 'classification' asks none, got t"),
        (["phases.tune.companions={t: {phase: tune}}"], "phases[tune].companions.t: 'tune' is no end of an earlier ph"),
        (["phases.tune.scores={t: {phase: base}}"], "phases[tune].scores: 'classification' asks none, got t"),
        (
            ["prune={dataset: gone, layers: 1}"],
            "prune.dataset: 'gone' is no dataset that a phase trains on; there are ",
        ),
        (["prune={dataset: home}"], "prune: give `layers` or `share`, got neither"),
        (["prune={dataset: home, share: 1.5}"], "prune.share: input should be less than 1, got 1.5"),
        (["prune={dataset: home, layers: 1}", "phases.0.name=prune"], "phases: 'prune' names the model that layers"),
        (
            ["prune={dataset: home, layers: 1}", "phases.tune.tuning={kind: lora}", "publish.adapter=true"],
            "publish.adapter: it would stand on a model without some layers",
        ),
        (
            ["prune={dataset: home, layers: 1}", "retrain.start=champion"],
            "prune: retrain.start is 'champion', which has lost its layers already",
        ),
        (
            ["prune={dataset: home, layers: 1}", "phases.tune.tuning={kind: lora, keep: adapter}"],
            "phases[tune].tuning: ends in an adapter over a model without some layers, which nobody else has",
        ),
        (["phases.tune.scores={t: {}}"], "phases[tune].scores.t: give `model` or `phase`, got neither"),
    ],
)
def test_what_does_not_fit_a_phase_is_one_line(written: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(RecipeError) as refused:
        loaded(written, *MIXED, *overrides)
    assert sum(said.startswith(f"{written}: {line}") for said in str(refused.value).splitlines()) == 1
