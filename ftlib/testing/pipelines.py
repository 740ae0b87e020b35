"""A tiny pipeline of diffusers with random weights, and captioned images to train it on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ftlib.data.inputs import INPUT_IDS, TEXT, Pixels
from ftlib.data.prepared import PreparedRow, write_split
from ftlib.models.with_diffusers import INDEX, import_diffusers
from ftlib.testing.models import tiny_tokenizer
from ftlib.testing.rows import LABELS, tiny_rows, write_jsonl

DRAWN_SIZE = 8
CAPTION_TOKENS = 12


def tiny_pipeline(
    folder: Path, *, seed: int = 0, latents: bool = False, predicts: str = "epsilon", steps: int = 50
) -> Path:
    """Write a pipeline that draws images of 8 x 8, or with `latents` of 16 x 16, trained with so many timesteps.

    It has a U-Net of two levels, whose lower one reads captions, a BERT of one layer and, in latents, a VAE.
    """
    import torch
    from transformers import BertConfig, BertModel

    tokenizer: Any = tiny_tokenizer()
    diffusers, parts = import_diffusers(), dict[str, Any]()
    tokenizer.model_max_length = CAPTION_TOKENS
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=32,
        pad_token_id=tokenizer.pad_token_id,
    )
    config.use_attention_mask = True
    channels = 4 if latents else 3
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts["text_encoder"] = BertModel(config)
        parts["unet"] = diffusers.UNet2DConditionModel(
            sample_size=DRAWN_SIZE,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        if latents:
            parts["vae"] = diffusers.AutoencoderKL(
                block_out_channels=(8, 8),
                norm_num_groups=4,
                down_block_types=("DownEncoderBlock2D",) * 2,
                up_block_types=("UpDecoderBlock2D",) * 2,
                latent_channels=4,
            )
    parts["tokenizer"] = tokenizer
    stock: dict[str, Any] = (
        {"clip_sample": False, "steps_offset": 1} if latents else {}
    )  # as its pipeline's class wants
    parts["scheduler"] = diffusers.DDPMScheduler(num_train_timesteps=steps, prediction_type=predicts, **stock)
    index: dict[str, object] = {"_class_name": "StableDiffusionPipeline" if latents else "DiffusionPipeline"}
    for name, part in parts.items():
        part.save_pretrained(folder / name)
        library = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        index[name] = [library, type(part).__name__]
    (folder / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")
    return folder


def tiny_captioned_rows(folder: Path, count: int, *, seed: int = 0, columns: Mapping[str, str] | None = None) -> Path:
    """Write images of 8 x 8 and `captions.jsonl`, which names them: each label has a colour, a caption its words."""
    import numpy as np
    from PIL import Image

    draw, rows = np.random.default_rng(seed), list[dict[str, object]]()
    folder.mkdir(parents=True, exist_ok=True)
    for i, row in enumerate(tiny_rows(count, seed=seed)):
        pixels = draw.integers(0, 60, (DRAWN_SIZE, DRAWN_SIZE, 3), np.uint8)
        pixels[..., LABELS.index(str(row["label"])) % 3] += 180
        Image.fromarray(pixels).save(folder / f"{seed}-{i}.png")
        words = " ".join(str(row["text"]).split()[:4])
        rows.append({"image": f"{seed}-{i}.png", "caption": words, "group": row["label"], **(columns or {})})
    return write_jsonl(folder / "captions.jsonl", rows)


def tiny_captioned_split(path: Path, count: int, *, seed: int = 0) -> Path:
    """Write a prepared split of captioned images of 8 x 8, which a tiny pipeline reads."""
    import numpy as np

    draw, tokenizer = np.random.default_rng(seed), tiny_tokenizer()
    column = Pixels(height=DRAWN_SIZE, width=DRAWN_SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    rows = [
        PreparedRow(
            f"{i:032x}",
            {
                INPUT_IDS: tokenizer(" ".join(str(row["text"]).split()[: 1 + i % 4]))["input_ids"],
                column.name: draw.integers(0, 256, column.shape, np.uint8),
            },
        )
        for i, row in enumerate(tiny_rows(count, seed=seed))
    ]
    write_split(path, "captioned_images", rows, inputs=(*TEXT, column))
    return path
