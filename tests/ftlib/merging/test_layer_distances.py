"""Distances between checkpoints against numpy on whole tensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ftlib.merging.layer_distances import layer_distances


def folder_of(path: Path, tensors: dict[str, Tensor]) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({}))
    save_file(tensors, path / "model.safetensors")
    return path


def ends(tmp_path: Path, step: float) -> tuple[dict[str, Tensor], dict[str, Tensor], list[Path]]:
    generator = torch.Generator().manual_seed(0)
    names = ["embed_tokens.weight", "layers.0.a.weight", "layers.0.b.bias", "layers.1.a.weight", "classifier.weight"]
    start = {name: torch.randn(40_000, generator=generator).bfloat16() for name in names}
    end = {
        name: (value.float() * (1 + step * torch.randn(40_000, generator=generator))).bfloat16()
        for name, value in start.items()
    }
    end["layers.1.a.weight"] = start["layers.1.a.weight"].clone()
    start["steps"] = end["steps"] = torch.tensor(3)
    return start, end, [folder_of(tmp_path / str(i), tensors) for i, tensors in enumerate((start, end))]


def test_every_number_is_numpys(tmp_path: Path) -> None:
    start, end, folders = ends(tmp_path, 0.01)
    found = {distance.layer: distance for distance in layer_distances(*folders, alpha=0.3)}
    assert list(found) == ["embeddings", "layer 0", "layer 1", "head"]
    for layer, names in {"layer 0": ["layers.0.a.weight", "layers.0.b.bias"], "head": ["classifier.weight"]}.items():
        a, b = (np.concatenate([part[name].double().numpy() for name in names]) for part in (start, end))
        mixed = torch.from_numpy(0.7 * a + 0.3 * b).bfloat16().double().numpy()
        moved = a != b
        got = found[layer]
        assert got.elements == len(a)
        assert got.distance == pytest.approx(np.linalg.norm(b - a), rel=1e-9)
        assert got.relative == pytest.approx(np.linalg.norm(b - a) / np.linalg.norm(a), rel=1e-9)
        assert got.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-9)
        assert got.moved == moved.mean()
        assert got.survives == pytest.approx((mixed != a)[moved].mean(), abs=2e-3)
        assert got.displacement == pytest.approx(np.linalg.norm(mixed - a) / 0.3 / np.linalg.norm(b - a), rel=2e-3)


def test_a_layer_that_stood_still_says_so(tmp_path: Path) -> None:
    still = layer_distances(*ends(tmp_path, 0.01)[2], alpha=0.5)[2]
    assert (still.distance, still.moved, still.survives, still.displacement) == (0.0, 0.0, 1.0, 1.0)
    assert still.cosine == pytest.approx(1.0, abs=1e-12)


def test_small_steps_are_lost_in_bf16_and_kept_in_fp32(tmp_path: Path) -> None:
    """The interpolation report's table: most of a step of 1e-3 does not survive at alpha 0.1."""
    _, _, folders = ends(tmp_path, 0.003)
    in_bf16, in_fp32 = (
        layer_distances(*folders, alpha=0.1, dtype=dtype)[0] for dtype in (torch.bfloat16, torch.float32)
    )
    assert in_bf16.survives < 0.2
    assert in_fp32.survives == 1.0
    assert in_fp32.displacement == pytest.approx(1.0, abs=1e-3)
