"""How far the style of drawn images is from that of real ones, in the features of a classifier of images.

    python -m benchmarks.style_distance PIPELINE... --rows rows/emoji/twitter --features models/efficientnet-lite0

Each pipeline (a folder of diffusers, as one that is pulled from a registry) draws the same captions from the same
seeds. Style is what Huang & Belongie (2017, arXiv 1703.06868) carry over: mean and standard deviation of each channel,
at four depths of the network. The distance of a drawn image from the row's own is the mean squared difference of these,
each in units of its spread over the real images; lower is nearer. Intervals are of 1,000 resamples of the captions, and
the last line compares the last pipeline with the first, caption by caption. `--captions` names a file of held-out
captions, a line each; without one all of the rows' are drawn from.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ftlib.data.formats.captioned_image import caption_ids
from ftlib.data.images.decoding import decode
from ftlib.errors import DataError
from ftlib.models.pipelines import as_one_model

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL import Image

DEPTHS, PIXELS, RESAMPLES = 4, 96, 1_000


def drawn(pipeline: Path, captions: Sequence[str], steps: int, batch: int = 16) -> list[Image.Image]:
    """Return what a pipeline draws of captions, each from its place as the seed."""
    import torch
    from PIL import Image

    from ftlib.kinds.collate import Collator
    from ftlib.kinds.drawing import draw
    from ftlib.kinds.loading import load_model, load_processor

    one = as_one_model(pipeline)
    model, processor = load_model(one, "captioned_images"), load_processor(one)
    images: list[Image.Image] = []
    for first in range(0, len(captions), batch):
        some = captions[first : first + batch]
        inputs = Collator.of(model)({"input_ids": [caption_ids(processor, caption)[0] for caption in some]})
        seeds = range(first, first + len(some))
        made = draw(model, inputs["input_ids"], inputs["attention_mask"], seeds, steps=steps)
        pixels = (made * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        images += [Image.fromarray(one) for one in pixels]
    return images


def style(images: Sequence[Image.Image], features: Path) -> Float[np.ndarray, "images numbers"]:
    """Return mean and standard deviation of each channel at a few depths of a classifier, for each image."""
    import torch
    from transformers import AutoModel

    from ftlib.data.images.processing import for_pixels
    from ftlib.kinds.loading import load_processor

    network: Any = AutoModel.from_pretrained(features, local_files_only=True).eval()
    processor: Any = for_pixels(load_processor(features).image_processor, PIXELS)
    found: list[Any] = []
    with torch.inference_mode():
        for first in range(0, len(images), 32):
            pixels = torch.from_numpy(np.stack(processor(list(images[first : first + 32]))["pixel_values"]))
            states = network(pixel_values=pixels, output_hidden_states=True).hidden_states
            # The first states are edges and colours, the last what a thing is: that is no style.
            some = [states[i] for i in np.linspace(0, 2 * len(states) // 3, DEPTHS).astype(int)]
            found.append(torch.cat([torch.cat([s.mean((2, 3)), s.std((2, 3))], 1) for s in some], 1))
    return torch.cat(found).double().numpy()


def distances(
    ours: Float[np.ndarray, "images numbers"], real: Float[np.ndarray, "images numbers"]
) -> Float[np.ndarray, " images"]:
    """Return how far each image's style is from that of the real image of the same caption."""
    return (((ours - real) / (real.std(axis=0) + 1e-6)) ** 2).mean(axis=1)


def interval(values: Float[np.ndarray, " images"]) -> tuple[float, float, float]:
    """Return the mean, and its 95 % interval over resamples of the captions."""
    rows = np.random.default_rng(0).integers(0, len(values), (RESAMPLES, len(values)))
    low, high = np.quantile(values[rows].mean(axis=1), [0.025, 0.975])
    return float(values.mean()), float(low), float(high)


def _rows(folder: Path, held_out: Path | None, most: int) -> list[dict[str, str]]:
    try:
        rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
        wanted = {*held_out.read_text(encoding="utf-8").splitlines()} if held_out else None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder} holds no captions.jsonl: {error}; python -m recipes.emoji {folder.parent}"
        ) from error
    kept = [row for row in rows if wanted is None or row["caption"] in wanted]
    if len(kept) < 2:
        raise DataError(f"{folder} has {len(kept)} rows of these captions, needed are 2; give captions that it has")
    return [kept[i] for i in np.unique(np.linspace(0, len(kept) - 1, min(most, len(kept))).astype(int))]


def main(arguments: list[str]) -> int:
    """Print a line for each pipeline, and one that compares the last with the first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.style_distance")
    parser.add_argument("pipelines", nargs="+", type=Path)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--features", type=Path, required=True)
    parser.add_argument("--captions", type=Path)
    parser.add_argument("--most", type=int, default=64)
    parser.add_argument("--steps", type=int, default=30)
    asked = parser.parse_args(arguments)
    rows = _rows(asked.rows, asked.captions, asked.most)
    real = style([decode((asked.rows / row["image"]).read_bytes()).image for row in rows], asked.features)
    captions = [row["caption"] for row in rows]
    found = [distances(style(drawn(one, captions, asked.steps), asked.features), real) for one in asked.pipelines]
    for pipeline, values in zip(asked.pipelines, found, strict=True):
        print("{}: {:.3f} [{:.3f}, {:.3f}]".format(pipeline, *interval(values)))
    if len(found) > 1:
        print("last - first: {:+.3f} [{:+.3f}, {:+.3f}]".format(*interval(found[-1] - found[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
