"""A phase that needs another head than the one before: its start is that one's body, bit for bit, and a fresh head."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flows.run import jobs
from flows.run.phase_steps import given_head
from ftlib.errors import RecipeError
from ftlib.kinds.loading import load
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.recipe.file import load_recipe
from ftlib.recipe.recipe import Recipe
from ftlib.stages.base import BaseJob, base
from ftlib.stages.step import walk
from ftlib.testing import LABELS, tiny_classifier, tiny_recipe
from ftlib.workspace import Workspace

PLAIN = "datasets.plain={source: {kind: files, path: plain.jsonl}, format: {kind: masked_text, text: text}}"
ADAPT = "{name: adapt, dataset: plain, objective: {kind: masked_lm}, tuning: {kind: full}}"
PROBE = "{name: probe, dataset: home, objective: {kind: classification}, tuning: {kind: linear_probe}}"
TUNE = "{name: tune, dataset: home, objective: {kind: classification}, tuning: {kind: full}}"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("recipe"))


def loaded(path: Path, *phases: str, more: tuple[str, ...] = ()) -> Recipe:
    return load_recipe(path, [PLAIN, f"phases=[{', '.join(phases)}]", *more])


def test_the_start_has_the_body_that_the_phase_before_ended_with(written: Path, tmp_path: Path) -> None:
    recipe, work = loaded(written, ADAPT, PROBE, TUNE), Workspace(tmp_path / "work")
    assert [recipe.takes_new_head(phase) for phase in recipe.phases] == [False, True, False]
    assert [phase.name for phase in recipe.answering_phases] == ["probe", "tune"]
    assert recipe.answering_datasets() == ("home",)
    assert jobs.base_job(recipe, find_model(ModelRef(path=str(written.parent / "model"))), LABELS).labels == ()
    model = find_model(ModelRef(path=str(tiny_classifier(tmp_path / "tiny", seed=3))))
    end = base(BaseJob(model=model, kind="masked", labels=(), seed=1), work)
    end = end.model_copy(update={"phase": "adapt", "fresh_head": False})
    asked: list[str] = []

    def answer(step: object) -> object:
        asked.append(step.label)  # type: ignore[attr-defined]
        return step.stage(step.job, work)  # type: ignore[attr-defined]

    class Known:
        labels = LABELS

    start = walk(given_head(recipe, recipe.phases[1], end, Known()), answer)  # type: ignore[arg-type]
    assert start is not None
    assert asked == ["base probe"]
    assert (start.phase, start.parent, start.labels, start.fresh_head) == ("probe-start", end.weights, LABELS, True)
    body, head = load(end, "masked").state_dict(), load(start, "labeled").state_dict()
    shared = {name for name in head if name in body}
    assert shared == {name for name in head if name.startswith("bert.") and "pooler" not in name}
    assert all(torch.equal(head[name], body[name]) for name in shared)
    again = base(jobs.head_job(recipe, recipe.phases[1], end, LABELS), Workspace(tmp_path / "again"))
    assert again.weights == start.weights  # of the recipe's seed


@pytest.mark.parametrize(
    ("phases", "more", "line"),
    [
        ((PROBE, ADAPT), (), "phases[probe]: learns labels ('labeled') with a head that a later phase gives up for "),
        ((ADAPT, TUNE), (), "interpolation: 'wise_ft' starts from weights whose head means something, but phase 'tun"),
        (
            (ADAPT.replace("kind: full", "kind: lora, keep: adapter"), PROBE, TUNE),
            (),
            "phases[probe]: needs a head of its own, which dense weights are given, and 'adapt' ends in an adapter",
        ),
        (
            (ADAPT, PROBE, TUNE),
            ("evaluations.plain={dataset: plain, metrics: [{kind: perplexity}]}",),
            "evaluations.plain: a model trained on labeled does not answer 'masked' batches; use another dataset",
        ),
        (
            (ADAPT.replace("dataset: plain", "mixture: {plain: 1, home: 1}"), PROBE, TUNE),
            (),
            "phases[adapt]: one head must answer all of its batches; these are labeled, masked",
        ),
        (
            (ADAPT.replace("masked_lm", "causal_lm"), PROBE, TUNE),
            (),
            "phases[adapt]: 'causal_lm' needs 'tokens' batches, but dataset 'plain' has format 'masked_text'",
        ),
    ],
)
def test_what_no_head_can_learn_is_one_line(
    written: Path, phases: tuple[str, ...], more: tuple[str, ...], line: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        loaded(written, *phases, more=more)
    assert sum(said.removeprefix(f"{written}: ").startswith(line) for said in str(refused.value).splitlines()) == 1
