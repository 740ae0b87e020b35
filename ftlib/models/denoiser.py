"""A text-to-image pipeline as one model: what the U-Net says of noise, under captions that a frozen encoder reads.

diffusers keeps a pipeline as a folder of models. Training, checkpoints, merging and adapters work on one model, so its
parts are one here: `unet`, which trains, `text_encoder` and, where it works in latents, `vae`, which never do. A folder
of it has a config.json of the type `reglage_denoiser`; `ftlib.models.pipelines` makes one of a pipeline, and a pipeline
of one. Captions are read as stock `StableDiffusionPipeline` reads them: filled up to a fixed number of tokens, whose
mask the encoder sees only if its config says `use_attention_mask`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.utils.generic import ModelOutput
from typing_extensions import override

from ftlib.models.with_diffusers import ONE_MODEL, import_diffusers


class DenoiserConfig(PretrainedConfig):
    """The parts' own configs, and how captions are filled up."""

    model_type = ONE_MODEL
    sub_configs = {"text_config": AutoConfig}  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def __init__(
        self,
        unet: dict[str, Any] | None = None,
        text_config: Any = None,
        vae: dict[str, Any] | None = None,
        scheduler: dict[str, Any] | None = None,
        pipeline: dict[str, Any] | None = None,
        caption_tokens: int = 77,
        caption_pad: int = 0,
        empty_caption: Sequence[int] = (),
        **others: Any,
    ) -> None:
        """Take what diffusers says of U-Net, VAE, scheduler and pipeline, and transformers of the text encoder.

        Captions have `caption_tokens`, filled up with `caption_pad`; `empty_caption` are the tokens of no text, which
        stand for any caption where guidance asks what the image would be without one.
        """
        self.unet, self.vae = unet or {}, vae
        self.scheduler, self.pipeline = scheduler or {}, pipeline or {}
        self.caption_tokens, self.caption_pad = caption_tokens, caption_pad
        self.empty_caption = [*empty_caption]
        if isinstance(text_config, dict):
            text_config = AutoConfig.for_model(**cast("dict[str, Any]", text_config))
        self.text_config = text_config
        super().__init__(**others)

    @property
    def predicts(self) -> str:
        """Return what the U-Net says of a noisy image: `epsilon`, `v_prediction` or `sample`."""
        return str(self.scheduler.get("prediction_type", "epsilon"))


@dataclass
class Denoised(ModelOutput):
    """What the U-Net said of noisy images, and what it should have said."""

    logits: Tensor | None = None
    """rows x channels x height x width: its prediction. Called as all models call what they say."""
    target: Tensor | None = None
    """Of the same shape: the noise, the velocity or the image, by the scheduler's `prediction_type`."""
    snr: Tensor | None = None
    """rows: the signal-to-noise ratio at each row's timestep."""


class Denoiser(PreTrainedModel):
    """U-Net, text encoder and, in latents, VAE. Only the U-Net ever trains."""

    config_class = DenoiserConfig
    base_model_prefix = "denoiser"
    main_input_name = "pixel_values"

    never_trains: ClassVar[tuple[str, ...]] = ("text_encoder", "vae")
    """Its parts that are read, whatever a tuning moves."""
    has_no_head: ClassVar[bool] = True

    def __init__(self, config: DenoiserConfig) -> None:
        """Build the parts by their configs."""
        super().__init__(config)
        diffusers = _diffusers()
        self.unet: Any = diffusers.UNet2DConditionModel.from_config(config.unet)
        self.text_encoder: Any = AutoModel.from_config(config.text_config)
        self.vae: Any = diffusers.AutoencoderKL.from_config(config.vae) if config.vae else None
        self.post_init()

    @override
    def _init_weights(self, module: nn.Module) -> None:
        """Leave modules as their own classes began them."""

    @override
    def train(self, mode: bool = True) -> Denoiser:
        """Put the U-Net into training mode; what never trains drops nothing out."""
        super().train(mode)
        for name in self.never_trains:
            if (part := getattr(self, name)) is not None:
                part.eval()
        return self

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Return the shape of what noise is added to: an image's pixels from -1 to 1, or its latents."""
        side = self.unet.config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return self.unet.config.in_channels, height, width

    def forward(
        self,
        pixel_values: Float[Tensor, "rows 3 height width"],
        input_ids: Int[Tensor, "rows tokens"] | None = None,
        attention_mask: Int[Tensor, "rows tokens"] | None = None,
        noise_seeds: Int[Tensor, " rows"] | None = None,
        timesteps: Int[Tensor, " rows"] | None = None,
        caption_dropout: float = 0.0,
    ) -> Denoised:
        """Add noise to images and say what the U-Net makes of it.

        What is drawn of a row follows from its number in `noise_seeds` alone, by a CPU's generator: its timestep
        (unless `timesteps` says it), whether its caption is dropped, and the noise. So the rows of a batch do not know
        of one another, and devices draw alike.
        """
        rows, device = len(pixel_values), pixel_values.device
        seeds = [0] * rows if noise_seeds is None else noise_seeds.tolist()
        draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        alphas = alphas_of(cast(DenoiserConfig, self.config))
        drawn = torch.cat([torch.randint(len(alphas), (1,), generator=draw) for draw in draws])
        dropped = torch.cat([torch.rand(1, generator=draw) for draw in draws]) < caption_dropout
        images = self.encoded(pixel_values, draws)
        noise = torch.stack([torch.randn(images.shape[1:], generator=draw) for draw in draws]).to(images)
        at = drawn if timesteps is None else timesteps.cpu()
        alpha = alphas[at][:, None, None, None].to(images)
        noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
        captions = self.captions(input_ids, attention_mask, dropped.to(device))
        said = self.unet(noisy, at.to(device), encoder_hidden_states=captions).sample
        targets = {
            "epsilon": lambda: noise,
            "v_prediction": lambda: alpha.sqrt() * noise - (1 - alpha).sqrt() * images,
            "sample": lambda: images,
        }
        ratio = alphas[at] / (1 - alphas[at])
        return Denoised(logits=said, target=targets[self.config.predicts](), snr=ratio.to(device))

    @torch.no_grad()
    def encoded(
        self, pixels: Float[Tensor, "rows 3 height width"], draws: Sequence[torch.Generator]
    ) -> Float[Tensor, "rows channels height width"]:
        """Return what noise is added to: the pixels, or a draw of their latents, as the scheduler scales them."""
        if self.vae is None:
            return pixels
        latents = self.vae.encode(pixels).latent_dist
        shape = latents.mean.shape[1:]
        noise = torch.stack([torch.randn(shape, generator=draw) for draw in draws]).to(latents.mean)
        shift = self.vae.config.shift_factor or 0.0
        return (latents.mean + latents.std * noise - shift) * self.vae.config.scaling_factor

    @torch.no_grad()
    def captions(
        self,
        input_ids: Int[Tensor, "rows tokens"] | None,
        attention_mask: Int[Tensor, "rows tokens"] | None,
        dropped: Tensor,
    ) -> Float[Tensor, "rows caption_tokens width"]:
        """Return what the U-Net reads of captions, and of none where they are `dropped`."""
        config, rows = self.config, len(dropped)
        width, empty = config.caption_tokens, config.empty_caption
        ids = torch.full((rows, width), config.caption_pad, device=dropped.device)
        mask = torch.zeros_like(ids)
        if input_ids is not None:
            many = min(width, input_ids.shape[1])
            own = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            mask[:, :many] = own[:, :many]
            ids[:, :many] = torch.where(own[:, :many].bool(), input_ids[:, :many], config.caption_pad)
        nothing = torch.full((width,), config.caption_pad, device=ids.device)
        nothing[: len(empty)] = torch.tensor(empty, device=ids.device, dtype=ids.dtype)
        drop = dropped[:, None] if input_ids is not None else torch.ones_like(dropped)[:, None].bool()
        ids = torch.where(drop, nothing, ids)
        mask = torch.where(drop, (torch.arange(width, device=ids.device) < len(empty)).long(), mask)
        masked = {"attention_mask": mask} if getattr(config.text_config, "use_attention_mask", False) else {}
        return self.text_encoder(ids, **masked)[0]

    @torch.no_grad()
    def decoded(self, images: Float[Tensor, "rows channels height width"]) -> Float[Tensor, "rows 3 height width"]:
        """Return pixels from 0 to 1 of what noise was taken from."""
        if self.vae is not None:
            shift = self.vae.config.shift_factor or 0.0
            images = self.vae.decode(images / self.vae.config.scaling_factor + shift).sample
        return (images / 2 + 0.5).clamp(0, 1)


def alphas_of(config: DenoiserConfig) -> Float[Tensor, " timesteps"]:
    """Return how much of an image's square is left at each timestep of a model's training: `alphas_cumprod`."""
    return _alphas(json.dumps(config.scheduler, sort_keys=True))


@functools.lru_cache(maxsize=8)
def _alphas(scheduler: str) -> Float[Tensor, " timesteps"]:
    made: Any = _diffusers().DDPMScheduler.from_config(json.loads(scheduler))
    return made.alphas_cumprod.float()


def _diffusers() -> Any:
    return import_diffusers()


AutoConfig.register(DenoiserConfig.model_type, DenoiserConfig)
AutoModel.register(DenoiserConfig, Denoiser)
