"""A small detector of random weights: YOLOS for images of 128 pixels, since no package holds one that has learnt.

    python -m recipes.detector_base models/yolos-small

writes a folder that stock transformers loads: 0.5 million parameters, patches of 8 pixels, 20 queries. The same command
gives the same bytes.
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
    )
    processor: Any = YolosImageProcessorPil(size={"height": SIZE, "width": SIZE}, do_pad=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = YolosForObjectDetection(config)
    with scratch_beside(out) as scratch, quiet():
        model.save_pretrained(made := scratch / "made")
        processor.save_pretrained(made)
        made.rename(out)
    return f"{sum(p.numel() for p in model.parameters()):,} parameters"


def main(arguments: list[str]) -> int:
    """Build to the first argument, models/yolos-small where there is none."""
    out = Path(arguments[0] if arguments else "models/yolos-small")
    return build_once("detector_base", out, out / "config.json", lambda: build(out))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
