"""Folders of diffusers: a text-to-image pipeline made one model to train, and one model made a pipeline to publish.

A pipeline's folder has a model_index.json and a folder for each part. What is trained, mixed and measured is a folder
of one model (`ftlib.models.denoiser`), which is made of it once and kept in the user's cache; what is published is a
pipeline again, which stock diffusers loads.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

from ftlib.errors import ModelError, first_line
from ftlib.fingerprint import digest, file_digest
from ftlib.models.json_files import TOKENIZER_FILES, check_no_code, read_json
from ftlib.models.with_diffusers import INDEX, import_diffusers
from ftlib.workspace import exclusive, make_cache, user_cache

_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL",), "scheduler": (), "text_encoder": (), "tokenizer": ()}
)
"""The parts that are read, and the classes that are known here; None of a class: any."""
_NEEDED = ("unet", "scheduler", "text_encoder", "tokenizer")
_VERSION = 1
"""Of what is kept in the cache."""


def as_one_model(folder: Path) -> Path:
    """Return the folder of one model that holds what a pipeline's folder does, made now or kept from before.

    Raises ModelError for a pipeline without a text encoder, with parts that are not known here, or whose parts do not
    load; RecipeError where diffusers is not installed.
    """
    index = check_pipeline(folder)
    files = sorted(
        path for name in _PARTS for path in (folder / name).rglob("*") if path.is_file() and path.suffix != ".bin"
    )
    content = {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
    kept = make_cache(user_cache() / "pipelines") / digest([_VERSION, index, {**content}])
    with exclusive(kept.with_suffix(".lock"), wait=True):
        if not kept.is_dir():
            partial = kept.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _write_one(folder, index, partial)
            partial.rename(kept)
    return kept


def check_pipeline(folder: Path) -> dict[str, Any]:
    """Return what a pipeline's index says, by which, and by the folders beside it, it can be trained here.

    Raises ModelError for one without a text encoder, or with parts that are not known here; nothing is loaded.
    """
    content = read_json(folder / INDEX)
    if not isinstance(content, dict):
        raise ModelError(f"{folder / INDEX} is not a JSON object; save the pipeline again")
    index = cast("dict[str, Any]", content)
    parts = {name for name, part in index.items() if isinstance(part, list) and part and part[0]}
    for name in _NEEDED:
        if name not in parts or not (folder / name).is_dir():
            raise ModelError(
                f"{folder} is a pipeline without a {name} (parts: {', '.join(sorted(parts)) or 'none'}); needed are "
                f"{', '.join(_NEEDED)}, each in its folder: give a text-to-image pipeline"
            )
    for name in sorted(parts):
        known, got = _PARTS.get(name), str(index[name][1])
        if known and got not in known:
            raise ModelError(f"{folder}: its {name} is a {got}, known here is {' or '.join(known)}; give another one")
        if name == "text_encoder_2":
            raise ModelError(f"{folder} reads captions by two text encoders, known here is one; give another pipeline")
    for name in ("", *parts):
        check_no_code(folder / name)
    return index


def _write_one(folder: Path, index: Mapping[str, Any], out: Path) -> None:
    """Write a pipeline as the folder of one model, with its tokenizer, and an image processor of the U-Net's size."""
    import torch
    from transformers import AutoModel, AutoTokenizer, ViTImageProcessorPil

    from ftlib.models.denoiser import Denoiser, DenoiserConfig
    from ftlib.models.quiet import quiet

    diffusers = import_diffusers()
    local: dict[str, Any] = {"local_files_only": True, "use_safetensors": True}
    has_vae = bool(index.get("vae") and index["vae"][0])
    try:
        with quiet():
            tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
            text: Any = AutoModel.from_pretrained(folder / "text_encoder", dtype=torch.float32, **local)
            unet: Any = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", **local)
            vae: Any = diffusers.AutoencoderKL.from_pretrained(folder / "vae", **local) if has_vae else None
            scheduler: Any = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    except Exception as error:  # of two libraries, and of whatever the configs make them build
        raise ModelError(f"{folder} cannot be loaded as a pipeline: {first_line(error)}; save it again") from error
    own = json.loads((folder / "scheduler" / "scheduler_config.json").read_bytes())
    _check_fit(folder, unet, text, vae, scheduler)
    longest = min(tokenizer.model_max_length, text.config.max_position_embeddings)
    config = DenoiserConfig(
        unet=_plain(unet.config),
        text_config=text.config,
        vae=_plain(vae.config) if vae is not None else None,
        scheduler={**_plain(scheduler.config), **own},
        pipeline=dict(index),
        caption_tokens=longest,
        caption_pad=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0,
        empty_caption=tokenizer("", truncation=True, max_length=longest)["input_ids"],
        architectures=[Denoiser.__name__],
    )
    with torch.device("meta"):
        model = Denoiser(config)
    model.unet, model.text_encoder, model.vae = unet.float(), text, vae and vae.float()
    with quiet():
        model.save_pretrained(out)
    for name in TOKENIZER_FILES:  # byte for byte: a re-saved tokenizer is another tokenizer
        if (folder / "tokenizer" / name).is_file():
            shutil.copyfile(folder / "tokenizer" / name, out / name)
    _channels, height, width = model.image_shape
    scale = 1 if vae is None else 2 ** (len(vae.config.block_out_channels) - 1)
    ViTImageProcessorPil(
        size={"height": height * scale, "width": width * scale},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        resample=3,
    ).save_pretrained(out)


def _check_fit(folder: Path, unet: Any, text: Any, vae: Any, scheduler: Any) -> None:
    """Raise ModelError for parts that do not fit together, as far as their configs tell."""
    channels = 3 if vae is None else vae.config.latent_channels
    wide = unet.config.cross_attention_dim
    if isinstance(wide, int) and wide != text.config.hidden_size:
        raise ModelError(
            f"{folder}: the U-Net reads captions {wide} numbers wide, and its text encoder writes "
            f"{text.config.hidden_size}; give parts of one pipeline"
        )
    if (unet.config.in_channels, unet.config.out_channels) != (channels, channels):
        raise ModelError(
            f"{folder}: the U-Net reads {unet.config.in_channels} channels and writes {unet.config.out_channels}, and "
            f"{'an image' if vae is None else 'its VAE'} has {channels}; give a pipeline of text to image"
        )
    if scheduler.config.prediction_type not in ("epsilon", "v_prediction", "sample"):
        raise ModelError(
            f"{folder}: the scheduler's prediction_type is {scheduler.config.prediction_type!r}, allowed are epsilon, "
            "v_prediction and sample; correct its scheduler_config.json"
        )


def _plain(config: Any) -> dict[str, Any]:
    """Return a config of diffusers as JSON has it, without what depends on the place or the version."""
    told = {key: value for key, value in dict(config).items() if key not in ("_name_or_path", "_use_default_values")}
    return json.loads(json.dumps(told, default=list))


def write_pipeline(one: Path, out: Path) -> None:
    """Write the pipeline that a folder of one model holds, as stock diffusers saves its parts."""
    from ftlib.models.denoiser import Denoiser
    from ftlib.models.quiet import quiet

    with quiet():
        model: Any = Denoiser.from_pretrained(one, local_files_only=True, use_safetensors=True)
        out.mkdir(parents=True, exist_ok=True)
        model.unet.save_pretrained(out / "unet")
        model.text_encoder.save_pretrained(out / "text_encoder")
        if model.vae is not None:
            model.vae.save_pretrained(out / "vae")
    (out / "tokenizer").mkdir()
    for name in TOKENIZER_FILES:
        if (one / name).is_file():
            shutil.copyfile(one / name, out / "tokenizer" / name)
    (out / "scheduler").mkdir()
    for path, content in (
        (out / "scheduler" / "scheduler_config.json", model.config.scheduler),
        (out / INDEX, model.config.pipeline),
    ):
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", "utf-8")


def into_pipeline(folder: Path) -> None:
    """Turn the folder of one model into the pipeline that it holds, in place."""
    made = folder.with_name(f".{folder.name}.pipeline")
    shutil.rmtree(made, ignore_errors=True)
    write_pipeline(folder, made)
    for path in [*folder.iterdir()]:
        if path.is_file():
            path.unlink()
    for path in [*made.iterdir()]:
        path.rename(folder / path.name)
    made.rmdir()
