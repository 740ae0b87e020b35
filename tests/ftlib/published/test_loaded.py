"""A version in memory: where its weights are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ftlib.data.formats import Format
from ftlib.data.formats.labeled_text import LabeledText
from ftlib.data.formats.prompt_completion import PromptCompletion
from ftlib.published.loaded import LoadedVersion
from ftlib.recipe.recipe import Recipe
from ftlib.registry.versions import MANIFEST, Manifest
from ftlib.testing import LABELS, tiny_causal_lm, tiny_classifier

FORMATS: dict[str, Format] = {
    "classification": LabeledText(text="text", label="label"),
    "completion": PromptCompletion(prompt="prompt", completion="completion", max_tokens=64),
}


def version(folder: Path, objective: str) -> Path:
    """Write a tiny version as it lies in a cache: a model that says labels, or one that writes."""
    model = tiny_causal_lm(folder) if objective == "completion" else tiny_classifier(folder, LABELS)
    metric = "exact_match" if objective == "completion" else "accuracy"
    writes = {"max_new_tokens": 8} if objective == "completion" else {}
    recipe = Recipe.model_validate(
        {
            "name": "demo",
            "model": {"path": str(model)},
            "datasets": {"mail": {"source": {"kind": "files", "path": "rows.jsonl"}, "format": FORMATS[objective]}},
            "phases": [{"name": "t", "dataset": "mail", "objective": {"kind": objective}, "tuning": {"kind": "full"}}],
            "evaluations": {"mail": {"dataset": "mail", "metrics": [{"kind": metric}], **writes}},
            "interpolation": {"kind": "off"},
            "select": {"by": f"mail/{metric}"},
            "publish": {"name": "demo"},
        }
    )
    lineage = {"recipe": json.loads(recipe.model_dump_json())}
    manifest = Manifest(name="demo", description="", files=(), metrics={}, lineage=lineage)
    (model / MANIFEST).write_bytes(manifest.canonical())
    return model


@pytest.mark.parametrize("objective", [*FORMATS])
def test_its_weights_are_where_it_is_told_to_compute(tmp_path: Path, objective: str) -> None:
    """As on a GPU: torch's device `meta` is another than the processor, and everywhere."""
    folder = version(tmp_path / "v", objective)
    for device in ("cpu", "meta"):
        model = LoadedVersion(folder, device=device)._model
        assert {tensor.device.type for tensor in (*model.parameters(), *model.buffers())} == {device}
