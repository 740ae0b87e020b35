"""A pipeline of diffusers becomes one model and a pipeline again; what cannot is refused in a line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftlib.errors import ModelError, RecipeError
from ftlib.models.folder import find_model, read_config
from ftlib.models.pipelines import as_one_model, check_pipeline, write_pipeline
from ftlib.models.reference import ModelRef
from ftlib.models.with_diffusers import INDEX
from ftlib.testing import tiny_pipeline


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("latents", [False, True])
def test_a_pipeline_comes_back_to_the_bit(tmp_path: Path, latents: bool) -> None:
    own = tiny_pipeline(tmp_path / "own", latents=latents, predicts="v_prediction")
    found = find_model(ModelRef(path=str(own)))
    assert found.name == str(own)
    assert as_one_model(own) == found.folder, "it is made once"
    write_pipeline(found.folder, back := tmp_path / "back")
    files = sorted(path.relative_to(own) for path in own.rglob("*.safetensors"))
    assert files == sorted(path.relative_to(back) for path in back.rglob("*.safetensors"))
    assert len(files) == (3 if latents else 2)
    for file in files:
        theirs, ours = load_file(own / file), load_file(back / file)
        assert theirs.keys() == ours.keys()
        assert all(torch.equal(theirs[name], ours[name]) for name in theirs)
    for file in ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"):
        assert (own / file).read_bytes() == (back / file).read_bytes()
    for file in (INDEX, "scheduler/scheduler_config.json"):
        assert json.loads((own / file).read_bytes()) == json.loads((back / file).read_bytes())
    assert find_model(ModelRef(path=str(back))).weights == found.weights


def _without(part: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_bytes())
        (folder / INDEX).write_text(json.dumps({name: value for name, value in index.items() if name != part}))

    return change


def _with(part: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        index = json.loads((folder / INDEX).read_bytes())
        (folder / INDEX).write_text(json.dumps({**index, part: value}))

    return change


def _settings(file: str, **changed: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        settings = json.loads((folder / file).read_bytes())
        (folder / file).write_text(json.dumps({**settings, **changed}))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without("text_encoder"), "is a pipeline without a text_encoder"),
        (_with("unet", ["diffusers", "FluxTransformer2DModel"]), "its unet is a FluxTransformer2DModel, known here"),
        (_with("text_encoder_2", ["transformers", "CLIPTextModel"]), "reads captions by two text encoders"),
        (_settings("text_encoder/config.json", auto_map={"AutoModel": "own.Code"}), "remove it"),
        (_settings("unet/config.json", cross_attention_dim=8), "cannot be loaded as a pipeline"),
        (lambda folder: (folder / "unet/diffusion_pytorch_model.safetensors").write_bytes(b"no"), "cannot be loaded"),
        (lambda folder: (folder / INDEX).write_text("[]"), "is not a JSON object"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path: Path, change: Callable[[Path], Any], said: str) -> None:
    change(own := tiny_pipeline(tmp_path / "own"))
    with pytest.raises(ModelError, match=said) as raised:
        find_model(ModelRef(path=str(own)))
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.name == "config.json"]


def test_without_the_package_its_remedy_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tiny_pipeline(tmp_path / "own")
    monkeypatch.setitem(sys.modules, "diffusers", None)
    check_pipeline(own)  # asks for nothing
    with pytest.raises(RecipeError, match=r"need the package 'diffusers'.*pip install 'reglage\[diffusion\]'"):
        find_model(ModelRef(path=str(own)))


def test_what_takes_no_pipeline_says_who_does(tmp_path: Path) -> None:
    (tmp_path / INDEX).write_text("{}")
    with pytest.raises(ModelError, match="is a pipeline of diffusers, which only recipes take"):
        read_config(tmp_path)
