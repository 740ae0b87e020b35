"""Images out of noise: what a pipeline draws of a caption, by the steps of DDIM, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ftlib.models.with_diffusers import import_diffusers

STEPS = 30
GUIDANCE = 3.0
"""How far captions are followed, beyond what is said without one: 1 asks for the caption alone."""


@torch.inference_mode()
def draw(
    model: Any,
    input_ids: Int[Tensor, "rows tokens"],
    attention_mask: Int[Tensor, "rows tokens"],
    seeds: Sequence[int],
    *,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Float[Tensor, "rows 3 height width"]:
    """Return an image from 0 to 1 for each caption, by DDIM without noise of its own (Song et al. 2020, 2010.02502).

    The first noise of a row is drawn on the CPU from its seed. What is said without a caption is taken off `guidance`
    times (classifier-free guidance, Ho & Salimans 2022, arXiv 2207.12598).
    """
    plain = getattr(model, "get_base_model", lambda: model)()
    device, rows = input_ids.device, len(input_ids)
    scheduler: Any = import_diffusers().DDIMScheduler.from_config(plain.config.scheduler)
    scheduler.set_timesteps(steps)
    noise = [torch.randn(plain.image_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    image = torch.stack(noise).to(device) * scheduler.init_noise_sigma
    captions = plain.captions(input_ids, attention_mask, torch.zeros(rows, dtype=torch.bool, device=device))
    nothing = plain.captions(None, None, torch.ones(rows, dtype=torch.bool, device=device))
    for step in scheduler.timesteps:
        given = scheduler.scale_model_input(image, step)
        if guidance == 1.0:
            said = plain.unet(given, step, encoder_hidden_states=captions).sample
        else:
            both = plain.unet(torch.cat([given] * 2), step, encoder_hidden_states=torch.cat([nothing, captions]))
            without, said = both.sample.chunk(2)
            said = without + guidance * (said - without)
        image = scheduler.step(said, step, image, eta=0.0).prev_sample
    return plain.decoded(image)
