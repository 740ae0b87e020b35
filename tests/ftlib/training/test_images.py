"""Training of ViT, ResNet and EfficientNet: the same loop, and BatchNorm that does not depend on how batches lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ftlib.testing import ImageFamily
from tests.ftlib.training.image_kit import image_data, image_phase, image_start, trained

FAMILIES: tuple[ImageFamily, ...] = ("vit", "resnet", "efficientnet")
CONVOLUTIONS: tuple[ImageFamily, ...] = ("resnet", "efficientnet")
TUNINGS: dict[str, dict[str, Any]] = {
    "full": {"kind": "full"},
    "frozen_layers": {"kind": "frozen_layers", "layers": 1, "layer_decay": 0.5},
    "lora": {"kind": "lora", "rank": 2},
    "linear_probe": {"kind": "linear_probe", "l2": 1.0},
}


def weights_of(checkpoint: Any) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.folder / "model.safetensors")


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_x(family, tuning, tmp_path):
    start, data = image_start(tmp_path, family), image_data(tmp_path / "data")
    end = trained(tmp_path / "a", start, data, image_phase(TUNINGS[tuning]))
    print(family, tuning, end.trained_parameters, end.facts)
    before, after = weights_of(start), weights_of(end)
    print({n: torch.equal(before[n], after[n]) for n in before})
