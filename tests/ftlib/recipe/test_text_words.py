"""What a recipe of texts is refused for before anything is prepared: the other sort of model, beams, pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ftlib.errors import RecipeError
from ftlib.fingerprint import identify
from ftlib.recipe.preflight import check_modality
from ftlib.recipe.recipe import Recipe
from ftlib.testing import tiny_causal_lm, tiny_classifier, tiny_text_to_text

SOURCES = {"kind": "text_to_text", "source": "en", "target": "fr"}
PROMPTS = {"kind": "prompt_completion", "prompt": "en", "completion": "fr"}
PAIRS = {"kind": "labeled_text", "text": "a", "pair": "b", "label": "c"}


def recipe(
    *formats: dict[str, Any], objective: str = "completion", metric: str = "perplexity", **changes: Any
) -> Recipe:
    datasets = {
        f"d{i}": {"source": {"kind": "files", "path": "x"}, "format": format} for i, format in enumerate(formats)
    }
    phases: list[dict[str, Any]] = [
        {"name": f"p{i}", "dataset": f"d{i}", "objective": {"kind": objective}} for i in range(len(formats))
    ]
    for phase in phases:
        phase |= {"tuning": changes.get("tuning", {"kind": "full"}), **changes.get("phase", {})}
    evaluation = {"dataset": "d0", "metrics": [{"kind": metric}], **changes.get("evaluation", {})}
    return Recipe.model_validate(
        {
            "name": "r",
            "model": {"path": "m"},
            "datasets": datasets,
            "phases": phases,
            "evaluations": {"e": evaluation},
            "select": {"by": f"e/{metric}"},
            "publish": {"name": "n"},
        }
    )


def test_a_model_of_two_halves_and_one_of_a_decoder_are_told_apart(tmp_path: Path) -> None:
    both, decoder = tiny_text_to_text(tmp_path / "both", "bart"), tiny_causal_lm(tmp_path / "decoder")
    check_modality(recipe(SOURCES), both)
    check_modality(recipe(PROMPTS), decoder)
    with pytest.raises(RecipeError, match=r"is no encoder-decoder \(llama\).*'text_to_text' of dataset 'd0' is for"):
        check_modality(recipe(SOURCES), decoder)
    with pytest.raises(RecipeError, match=r"is an encoder-decoder \(bart\).*use a format that yields 'text_to_text'"):
        check_modality(recipe(PROMPTS), both)
    labels = recipe({**PAIRS}, objective="classification", metric="accuracy")
    for model in (both, tiny_classifier(tmp_path / "encoder")):  # a head for whole rows stands on either
        check_modality(labels, model)


def test_one_model_does_not_answer_both_sorts() -> None:
    with pytest.raises(ValidationError, match="one model must answer the batches of all"):
        recipe(SOURCES, PROMPTS)


def test_tokens_of_two_sequences_are_no_budget_of_one() -> None:
    budget = {"optimizer": {"batch_tokens": 512}}
    recipe(PROMPTS, phase=budget)
    with pytest.raises(
        ValidationError, match=r"batch_tokens: 512 tokens are counted of rows of one sequence, but .*'d0'"
    ):
        recipe(SOURCES, phase=budget)


def test_beams_are_said_where_something_is_written_and_are_part_of_what_is_asked() -> None:
    with pytest.raises(ValidationError, match=r"evaluations\.e\.num_beams: 4 beams write nothing"):
        recipe(SOURCES, evaluation={"num_beams": 4})
    greedy, beams = (
        recipe(SOURCES, evaluation={"max_new_tokens": 8, "num_beams": count}).evaluations["e"] for count in (1, 4)
    )
    assert "num_beams" not in str(identify(greedy))
    assert identify(greedy) != identify(beams)
    with pytest.raises(ValidationError, match="num_beams"):
        recipe(SOURCES, evaluation={"max_new_tokens": 8, "num_beams": 0})


def test_sentences_about_labels_are_not_compared_with_pairs() -> None:
    words: dict[str, Any] = {"objective": "classification", "metric": "accuracy"}
    with pytest.raises(ValidationError, match=r"phases\[p0\]: 'zero_shot' compares .* rows of 'd0' are pairs of texts"):
        recipe(PAIRS, tuning={"kind": "zero_shot"}, **words)
    recipe(PAIRS, tuning={"kind": "linear_probe"}, **words)
    recipe({**PAIRS, "pair": None}, tuning={"kind": "zero_shot"}, **words)


def test_half_precision_in_which_t5_overflows_is_none_of_the_precisions() -> None:
    with pytest.raises(ValidationError, match="precision"):
        Recipe.model_validate({**recipe(SOURCES).model_dump(), "compute": {"precision": "fp16"}})
