"""What of a recipe for preferences does not fit together, in one line each."""

from __future__ import annotations

from pathlib import Path

import pytest

from ftlib.errors import RecipeError
from ftlib.recipe.file import load_recipe

DPO = Path(__file__).parents[3] / "recipes/dpo.yaml"


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["phases.0.scores={}"], "phases[prefer].scores: 'dpo' asks reference, got none"),
        (["phases.0.dropout=0.1"], "phases[prefer].dropout: 0.1, but 'dpo' compares answers with a reference's"),
        (["phases.0.tuning.dropout=0.1"], "phases[prefer].tuning.dropout: 0.1, but 'dpo' compares answers with a"),
        (["phases.0.self_kl=0.5", "phases.0.ema_decay=0.9"], "phases[prefer].self_kl: 0.5, but 'dpo' has a reference"),
        (["phases.0.objective={kind: kto}"], "phases[prefer]: 'kto' needs 'judged' batches, but dataset 'pairs' has"),
        (["phases.0.objective.label_smoothing=0.1"], "label_smoothing is the share of wrong pairs that loss_type"),
        (["phases.0.objective.loss_type=robust"], "give robust one between 0 and 0.5, and others none"),
        (["evaluations.pairs.reference=null"], "evaluations.pairs: 'reward_margin' reads rewards, which are measured"),
        (["evaluations.pairs.reference.phase=tune"], "'tune' is no phase's end; there are base, prefer"),
        (["evaluations.questions.reference={phase: base}"], "none of its metrics reads it; remove it, or give"),
        (["evaluations.pairs.max_new_tokens=8"], "'preferences' batches have no prompts to go on from; remove it"),
        (["compute.pack_tokens=512"], "those of 'pairs', on which phase 'prefer' trains, are 'preferences'; set it to"),
        (["phases.0.tuning={kind: prompt_tuning}"], "'prompt_tuning' fits"),
    ],
    ids=lambda one: one[0].partition("=")[0] if isinstance(one, list) else "",
)
def test_what_does_not_fit_is_one_line(overrides: list[str], line: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe(DPO, overrides)
    assert line in str(error.value)


def test_thumbs_and_objectives_without_a_reference_fit() -> None:
    for objective in ("orpo", "simpo"):
        overrides = [f"phases.0.objective={{kind: {objective}}}", "phases.0.scores={}", "phases.0.dropout=0.1"]
        assert load_recipe(DPO, overrides).phases[0].objective.kind == objective
    thumbs = "{kind: thumb, prompt: prompt, answer: chosen, label: label}"
    metrics = "[{kind: thumb_margin}, {kind: thumb_auroc}]"
    judged = load_recipe(
        DPO,
        [
            f"datasets.pairs.format={thumbs}",
            "phases.0.objective={kind: kto}",
            f"evaluations.pairs.metrics={metrics}",
            "select.by=pairs/thumb_margin",
        ],
    )
    assert judged.phases[0].objective.kind == "kto"
