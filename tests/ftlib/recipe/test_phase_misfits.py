"""Phases that do not fit: what they train on, and what beside the loss pulls at the weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_recipe

PLAIN = "{source: {kind: files, path: x}, format: {kind: plain_text, text: text}}"
MIXED = ["phases.tune.dataset=null", "phases.tune.mixture={home: 3, away: 1}", "datasets.away.split.test=0.25"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


def loaded(path: Path, *overrides: str) -> Recipe:
    return load_recipe(path, overrides)


def test_every_part_of_a_mixture_is_a_training_dataset(written: Path) -> None:
    recipe = loaded(written, *MIXED)
    assert recipe.training_datasets() == ("home", "away")
    assert recipe.phases[1].parts == {"away": 1, "home": 3}
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


TASKS = [*MIXED, "datasets.home.task=home", "datasets.away.task=away", "phases.probe.tuning={kind: full}"]


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["datasets.away.task=null"], "datasets: away has no task, and others have home; give each a task"),
        (["phases.tune.mixture={home: 1, away: 0}"], "datasets: no phase trains the task away; train it, or leave"),
        (["evaluations.away.dataset=home"], "evaluations: none measures the task away; give one on a dataset of it"),
        (["phases.tune.tasks={there: {}}"], "phases[tune].tasks: there is the task of none of its datasets; there are"),
        (["phases.tune.tasks={home: {weight: 0}}"], "phases[tune].tasks.home.weight: input should be greater than 0"),
        (
            ["phases.tune.tasks={home: {objective: {kind: regression}}}"],
            "phases[tune]: 'regression' needs 'scored' batches, but dataset 'home' has format 'labeled_text'",
        ),
        (
            ["phases.tune.tuning={kind: lora}"],
            "phases[tune].tuning: 'lora' trains one head, got tasks away, home; use frozen_layers, full",
        ),
        (["phases.tune.mixing.batches=mixed"], "phases[tune].mixing: a batch is of one task, got away, home; set"),
        (["phases.tune.objective={kind: distillation}"], "phases[tune]: 'distillation' of task 'away' asks frozen mod"),
        (
            [
                "datasets.away.format={kind: masked_text, text: text}",
                "phases.tune.tasks={away: {objective: {kind: masked_lm}}}",
            ],
            "datasets: tasks have heads of their own over one body, got labeled, masked batches; a model of words or",
        ),
        (
            [],
            "interpolation: 'wise_ft' starts from weights whose head means something, but phase 'tune' starts from a n",
        ),
        (
            ["phases.probe.dataset=away"],
            "interpolation: 'wise_ft' starts from weights whose head means something, but p",
        ),
        (["interpolation={kind: ties, seeds: [1]}"], "interpolation: several tasks have one body"),
        (["retrain.start=champion"], "retrain.start: the champion of several tasks has a head for each"),
        (["learning_curve={}"], "learning_curve: a share is of the rows of one task, and the recipe has 2; remove it"),
    ],
)
def test_tasks_that_do_not_fit_are_told_apart(written: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(RecipeError) as refused:
        loaded(written, *TASKS, *overrides)
    assert any(one.removeprefix(f"{written}: ").lstrip().startswith(line) for one in str(refused.value).splitlines())


def test_a_task_is_what_a_recipe_of_its_own_would_say(written: Path) -> None:
    recipe = loaded(written, *TASKS, "phases.tune.tasks={home: {weight: 2}}", "interpolation={kind: off}")
    assert recipe.tasks == ("away", "home")
    away, home = recipe.of_task("away"), recipe.of_task("home")
    assert ([*away.datasets], [*home.datasets]) == (["away"], ["home"])
    assert ([p.name for p in away.phases], [p.name for p in home.phases]) == (["tune"], ["probe", "tune"])
    assert home.phases[-1].dataset == "home"
    assert (away.select.by, home.select.by) == ("away/accuracy", "home/accuracy")
    assert away.tasks == home.tasks == ()


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["phases.tune.mixture={home: 1, gone: 2}"], "phases[tune].mixture: 'gone' is not a dataset; there are away"),
        (["phases.tune.dataset=home"], "phases[tune]: give `dataset`, or a `mixture` of several with their weights"),
        (["phases.tune.mixture.away=-1"], "phases[tune].mixture.away: input should be greater than or equal to 0"),
        (["phases.tune.mixture={home: 0, away: 0}"], "phases[tune]: mixture: the weights of home, away sum to 0; give"),
        (["phases.tune.mixing={limit: 9}"], "phases[tune]: mixing.limit: 9 rows, but shares follow weights; set by: r"),
        (["phases.tune.mixing.temperature=0"], "phases[tune].mixing.temperature: input should be greater than 0, got"),
        (
            ["phases.probe.mixing.batches=mixed"],
            "phases[probe]: mixing: says how the parts of a `mixture` are mixed, got dataset 'home'",
        ),
        (
            ["datasets.away.format={kind: plain_text, text: text}", "phases.tune.mixing.batches=mixed"],
            "phases[tune].mixing: rows of one kind are mixed in a batch, got 'tokens' of 'away', 'labeled' of 'home'",
        ),
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
        (
            ["phases.tune.penalty={kind: ewc, datasets: [words]}", f"datasets.words={PLAIN}"],
            "phases[tune].penalty.datasets: rows of 'words' are 'tokens', and the phase's model answers labeled; name",
        ),
        (
            [
                "phases.probe={name: probe, dataset: home, objective: {kind: classification}, tuning: {kind: full}, "
                "penalty: {kind: ewc}}",
                "prune={dataset: home, layers: 1}",
            ],
            "phases[probe].penalty: the Fisher information that the base model carries is of all its layers, and prune",
        ),
        (
            ["phases.tune.mixing.batches=mixed", "phases.tune.objective={kind: mixup}"],
            "phases[tune].mixing: 'mixup' asks about a whole batch first, each row once, got batches: mixed of",
        ),
        (
            ["phases.tune.mixing.batches=mixed", "phases.tune.objective={kind: cosine}"],
            "phases[tune].mixing: 'cosine' asks about a whole batch first, each row once, got batches: mixed of",
        ),
        (
            ["phases.tune.early_stopping={}", "phases.tune.objective={kind: cosine}"],
            "phases[tune].early_stopping: watches the validation loss, but 'cosine' measures it against a teacher that",
        ),
        (
            ["phases.tune.optimizer.schedule=plateau", "phases.tune.objective={kind: cosine}"],
            "phases[tune].optimizer.schedule: 'plateau' watches the validation loss, but 'cosine' measures it against",
        ),
        (
            ["phases.tune.self_kl=1", "phases.tune.ema_decay=0.9", "phases.tune.batch_norm=updated"],
            "phases[tune].self_kl: asks twice, and batch_norm: updated moves its statistics at each; set it to frozen",
        ),
        (
            ["phases.tune.self_kl=1", "phases.tune.ema_decay=0.9", "compute.pack_tokens=64"],
            "phases[tune].self_kl: is not told of packed rows; set compute.pack_tokens to null",
        ),
        *(
            (
                ["phases.tune.self_kl=1", "phases.tune.ema_decay=0.9", f"datasets.away.format={format}"],
                f"phases[tune].self_kl: answers to {kind!r} rows, as those of 'away', have no divergence; remove it",
            )
            for kind, format in (
                ("tagged", "{kind: tagged_words, words: text, tags: label}"),
                ("scored", "{kind: scored_text, text: text, score: label}"),
                ("masked", "{kind: masked_text, text: text}"),
            )
        ),
        (["phases.tune.companions={t: {phase: tun}}"], "phases[tune].companions: 'classification' asks none, got t"),
        (["phases.tune.companions={t: {phase: tune}}"], "phases[tune].companions.t: 'tune' is no end of an earlier ph"),
        (["phases.tune.scores={t: {phase: base}}"], "phases[tune].scores: 'classification' asks none, got t"),
        (
            ["prune={dataset: gone, layers: 1}"],
            "prune.dataset: 'gone' is no dataset that a phase trains on; there are ",
        ),
        (
            [
                "prune={dataset: words, layers: 1}",
                "phases.tune.penalty={kind: ewc, datasets: [words]}",
                f"datasets.words={PLAIN}",
            ],
            "prune.dataset: rows of 'words' are 'tokens', but the model that layers are removed from is that of the",
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
