"""A small detector of random weights: YOLOS for images of 128 pixels, since no package holds one that has learnt.

    python -m recipes.detector_base models/yolos-small

writes a folder that stock transformers loads: 0.5 million parameters, patches of 8 pixels, 20 queries. The same command
gives the same bytes.

A new YOLOS of transformers has zeros where places and queries are told apart: all of its queries say one box, and no
patch knows where it lies. Here patches begin with waves of their line and column, and queries at random.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from ftlib.merging.files import scratch_beside
from ftlib.models.quiet import quiet
from recipes.building import build_once

SIZE, PATCH, QUERIES, WIDTH, LAYERS = 128, 8, 20, 96, 4


def build(out: Path, seed: int = 0) -> str:
    """Write the model `out`, which must not exist, and say how many parameters it has."""
    import torch
    from transformers import YolosConfig, YolosForObjectDetection, YolosImageProcessorPil

    make: Any = YolosConfig  # whose stubs do not know what every config takes
    config = make(
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        image_size=[SIZE, SIZE],
        patch_size=PATCH,
        num_detection_tokens=QUERIES,
        use_mid_position_embeddings=False,
        num_labels=1,
        initializer_range=WIDTH**-0.5,
    )
    processor: Any = YolosImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_pad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = YolosForObjectDetection(config)
        with torch.no_grad():
            places = model.vit.embeddings.position_embeddings.normal_()
            places[0, 1 : 1 + (SIZE // PATCH) ** 2] = _waves(SIZE // PATCH)
    with scratch_beside(out) as scratch, quiet():
        model.save_pretrained(made := scratch / "made")
        processor.save_pretrained(made)
        made.rename(out)
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def _waves(side: int) -> Any:
    """Return side * side x WIDTH: sines and cosines of each patch's line, then of its column."""
    import torch

    rates = 100.0 ** -(torch.arange(WIDTH // 4) * 4 / WIDTH)
    angles = torch.arange(side)[:, None] * rates
    one = torch.cat([angles.sin(), angles.cos()], dim=-1)
    lines, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([lines, columns], dim=-1).flatten(0, 1)


def main(arguments: list[str]) -> int:
    """Build to the first argument, models/yolos-small where there is none."""
    out = Path(arguments[0] if arguments else "models/yolos-small")
    return build_once("detector_base", out, out / "config.json", lambda: build(out))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
