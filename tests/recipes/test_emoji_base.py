"""The pipeline that the recipe of diffusion starts from: it learns of captions and images, and stock code loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from ftlib.errors import DataError
from ftlib.kinds.loading import load_model
from ftlib.models.pipelines import as_one_model
from ftlib.testing import tiny_captioned_rows
from recipes import emoji_base

FEW = (8, 16)
"""Channels of a U-Net that is small enough for a test."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.slow
def test_the_u_net_learns_and_nothing_else_moves(tmp_path: Path) -> None:
    rows = tiny_captioned_rows(tmp_path / "rows", 40).parent
    pipeline = emoji_base.begin(tmp_path / "random", channels=FEW)
    before = load_model(as_one_model(pipeline), "captioned_images").state_dict()
    _, at_first = emoji_base.train(pipeline, rows, 3)
    model, in_the_end = emoji_base.train(pipeline, rows, 200)  # the mean of the last hundred
    assert in_the_end < 0.7 * at_first
    moved = {name for name, of in model.state_dict().items() if not torch.equal(of, before[name])}
    assert moved
    assert all(name.startswith("unet.") for name in moved)


@pytest.mark.slow
def test_stock_code_loads_the_parts_and_the_same_steps_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers, begin = pytest.importorskip("diffusers"), emoji_base.begin
    monkeypatch.setattr(emoji_base, "begin", lambda out: begin(out, channels=FEW))
    tiny_captioned_rows(tmp_path / "rows" / "google", 12)
    for name in ("one", "two"):
        assert emoji_base.main([str(tmp_path / name), str(tmp_path / "rows"), "2"]) == 0
        assert " parameters, 2 steps, loss " in capsys.readouterr().out
    weights = [
        (tmp_path / name / "unet" / "diffusion_pytorch_model.safetensors").read_bytes() for name in ("one", "two")
    ]
    assert weights[0] == weights[1]
    unet = diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "one" / "unet")
    assert tuple(unet.config.block_out_channels) == FEW
    assert AutoModel.from_pretrained(tmp_path / "one" / "text_encoder").config.hidden_size == 384
    assert AutoTokenizer.from_pretrained(tmp_path / "one" / "tokenizer").model_max_length == emoji_base.CAPTION_TOKENS
    assert emoji_base.main([str(tmp_path / "one"), str(tmp_path / "rows"), "2"]) == 0
    assert "is there already" in capsys.readouterr().out


def test_what_cannot_be_read_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError, match=f"{tmp_path} holds no emoji: .*; python -m recipes.emoji {tmp_path.parent}"):
        emoji_base._read(tmp_path)
    for words in ("many", "0"):
        assert emoji_base.main([str(tmp_path / "model"), str(tmp_path), words]) == 2
        assert (
            capsys.readouterr().err == f"emoji_base: steps are {words!r}, allowed is a number of them, such as 2000\n"
        )
    assert not list(tmp_path.iterdir())
