"""What the files of two models must have in common, so that one is asked the other's rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ftlib.models.checkpoint import FoundModel
from ftlib.models.companion import as_read_by
from ftlib.models.folder import processor_digest

IMAGES = {"image_mean": [0.5, 0.5, 0.5], "size": {"height": 224, "width": 224}, "do_resize": True}


def write_model(folder: Path, **files: dict[str, Any]) -> FoundModel:
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return FoundModel(name="m", uri=str(folder), weights="0" * 64, tokenizer=processor_digest(folder))


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"tokenizer_config": {"do_lower_case": True, "split_special_tokens": True, "pad_token": "."}}, True),
        ({"tokenizer_config": {"do_lower_case": False}}, False),
        ({"tokenizer": {"vocab": ["b", "a"]}}, False),
        ({"preprocessor_config": {**IMAGES, "size": {"height": 64, "width": 64}}}, True),
        ({"preprocessor_config": {**IMAGES, "image_mean": [0.4, 0.5, 0.5]}}, False),
    ],
)
def test_what_says_how_rows_are_made_makes_no_other_inputs(
    tmp_path: Path, changed: dict[str, dict[str, Any]], same: bool
) -> None:
    files = {
        "tokenizer_config": {"do_lower_case": True},
        "tokenizer": {"vocab": ["a", "b"]},
        "preprocessor_config": IMAGES,
    }
    model, companion = (
        write_model(tmp_path / "model", **files),
        write_model(tmp_path / "companion", **{**files, **changed}),
    )
    assert companion.tokenizer != model.tokenizer
    assert (as_read_by(companion, model).tokenizer == model.tokenizer) == same
