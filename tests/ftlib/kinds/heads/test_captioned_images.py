"""What a denoiser is taught and asked, and what it draws, held against stock diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, get_peft_model

from ftlib.kinds.batch import Batch
from ftlib.kinds.drawing import draw
from ftlib.kinds.draws import Draw
from ftlib.kinds.heads.captioned_images import NoiseSeeds
from ftlib.kinds.loading import load_model
from ftlib.merging.methods import Lerp
from ftlib.merging.stock_lora import write_stock_lora
from ftlib.models.denoiser import Denoised
from ftlib.models.pipelines import as_one_model
from ftlib.models.with_diffusers import LORA
from ftlib.testing import tiny_pipeline
from ftlib.training.objectives.denoising import Denoising

IDS = torch.tensor([[2, 70, 71, 3], [2, 72, 3, 0], [2, 3, 0, 0]])
MASK = (IDS != 0).long()
SEEDS = torch.tensor([5, 6, 7])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def loaded(folder: Path, **how: Any) -> Any:
    return load_model(as_one_model(tiny_pipeline(folder, **how)), "captioned_images")


def pixels(model: Any, rows: int = 3, times: int = 1) -> torch.Tensor:
    side = times * model.image_shape[1]
    return torch.rand((rows, 3, side, side), generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_noise_is_added_and_targets_are_those_of_the_stock_scheduler(tmp_path: Path) -> None:
    for predicts in ("epsilon", "v_prediction", "sample"):
        model = loaded(tmp_path / predicts, predicts=predicts)
        heard: list[Any] = []
        model.unet.register_forward_pre_hook(lambda _, given, heard=heard: heard.append(given))
        images = pixels(model)
        said: Denoised = model(images, IDS, MASK, SEEDS)
        (noisy, at), scheduler = heard[0], DDPMScheduler(num_train_timesteps=50, prediction_type=predicts)
        alpha = scheduler.alphas_cumprod[at][:, None, None, None]
        noise = (noisy - alpha.sqrt() * images) / (1 - alpha).sqrt()
        assert torch.allclose(scheduler.add_noise(images, noise, at), noisy, atol=1e-5)
        velocity = scheduler.get_velocity(images, noise, at)
        wanted = {"epsilon": noise, "v_prediction": velocity, "sample": images}[predicts]
        assert said.target is not None
        assert torch.allclose(said.target, wanted, atol=1e-4)
        assert said.snr is not None
        assert torch.allclose(said.snr, scheduler.alphas_cumprod[at] / (1 - scheduler.alphas_cumprod[at]))


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
def test_weights_are_those_of_min_snr(predicts: str) -> None:
    """Of the image's error min(SNR, gamma) counts: that of the noise is SNR times as large, the velocity's SNR + 1."""
    snr = np.array([0.01, 1.0, 4.9, 5.1, 300.0])
    assert Denoising().weights(torch.zeros(1), predicts).item() == 0.0, "a timestep without any signal"
    of_image = np.minimum(snr, 5.0)
    wanted = of_image / {"epsilon": snr, "v_prediction": snr + 1, "sample": np.ones(5)}[predicts]
    assert Denoising().weights(torch.from_numpy(snr), predicts).numpy() == pytest.approx(wanted)
    assert Denoising(min_snr_gamma=None).weights(torch.from_numpy(snr), predicts).tolist() == [1.0] * 5


def test_the_loss_of_a_row_does_not_know_its_batch(tmp_path: Path) -> None:
    model = loaded(tmp_path / "own").train()
    inputs = {"pixel_values": pixels(model), "input_ids": IDS, "attention_mask": MASK}
    objective = Denoising(caption_dropout=0.5)

    def loss(rows: slice) -> float:
        own = {name: value[rows] for name, value in inputs.items()}
        return float(objective.loss(model, Batch(own, torch.ones(len(SEEDS[rows])), SEEDS[rows])).total)

    alone = [loss(slice(i, i + 1)) for i in range(3)]
    assert sum(alone) == pytest.approx(loss(slice(0, 3)), rel=1e-6)
    assert alone[0] == pytest.approx(loss(slice(0, 2)) - alone[1], rel=1e-5)
    model.eval()
    assert loss(slice(0, 3)) != pytest.approx(sum(alone), rel=1e-4), "captions are dropped in training alone"


def test_a_dropped_caption_is_the_empty_one(tmp_path: Path) -> None:
    model = loaded(tmp_path / "own")
    images = pixels(model)
    dropped = model(images, IDS, MASK, SEEDS, caption_dropout=0.999999).logits
    empty = model(images, torch.tensor([[2, 3]] * 3), torch.ones((3, 2), dtype=torch.long), SEEDS).logits
    assert torch.allclose(dropped, empty, atol=1e-6)
    assert not torch.allclose(dropped, model(images, IDS, MASK, SEEDS).logits, atol=1e-4)


def test_seeds_are_functions_of_draw_and_row() -> None:
    rows, lengths = [3, 1, 2], np.zeros(3, np.int32)
    seeds = NoiseSeeds(Draw(1, 0)).tensor(rows, lengths)
    assert seeds.tolist() == NoiseSeeds().drawn(Draw(1, 0)).tensor(rows, lengths).tolist()
    assert seeds[1] == NoiseSeeds(Draw(1, 0)).tensor([1], lengths)[0]
    assert len({*seeds.tolist(), *NoiseSeeds(Draw(1, 1)).tensor(rows, lengths).tolist()}) == 6


def test_only_the_unet_trains_and_the_rest_drops_nothing_out(tmp_path: Path) -> None:
    model = loaded(tmp_path / "own", latents=True).train()
    assert model.unet.training
    assert not any(module.training for part in (model.text_encoder, model.vae) for module in part.modules())


def test_what_is_drawn_is_what_the_stock_pipeline_draws(tmp_path: Path) -> None:
    """A pipeline in latents, by StableDiffusionPipeline with DDIM: the same images from the same latents."""
    model = loaded(folder := tmp_path / "own", latents=True)
    stock: Any = StableDiffusionPipeline.from_pretrained(
        folder, safety_checker=None, feature_extractor=None, image_encoder=None, requires_safety_checker=False
    )
    stock.scheduler = DDIMScheduler.from_config(stock.scheduler.config)
    stock.set_progress_bar_config(disable=True)
    captions = ["invoice card", "crash"]
    asked = stock.tokenizer(captions, padding=True, return_tensors="pt")
    seeds = [11, 12]
    ours = draw(model, asked["input_ids"], asked["attention_mask"], seeds, steps=5, guidance=4.0)
    latents = torch.stack([torch.randn(model.image_shape, generator=torch.Generator().manual_seed(s)) for s in seeds])
    theirs = stock(captions, num_inference_steps=5, guidance_scale=4.0, latents=latents, output_type="np").images
    assert ours.shape == (2, 3, 16, 16)
    assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 1e-4


def test_an_adapter_is_loaded_by_stock_diffusers_whatever_its_alpha(tmp_path: Path) -> None:
    """Rank 4 and alpha 16: without the scale folded in, diffusers would take alpha for 4."""
    model = loaded(tmp_path / "own")
    one = as_one_model(tmp_path / "own")
    targets = [n for n, _ in model.named_modules() if n.startswith("unet.") and n.endswith(("to_q", "to_v", "conv1"))]
    with torch.random.fork_rng():
        wrapped: Any = get_peft_model(model, LoraConfig(r=4, lora_alpha=16, target_modules=targets))
        for name, parameter in wrapped.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter, std=0.02)
    wrapped.save_pretrained(adapter := tmp_path / "adapter")
    images, at = pixels(model), torch.tensor([3, 20, 40])
    text = model.captions(IDS, MASK, torch.zeros(3, dtype=torch.bool))
    for alpha in (0.5, 1.0):
        write_stock_lora(adapter, one, Lerp(alpha=alpha), out := tmp_path / f"stock-{alpha}")
        stock: Any = UNet2DConditionModel.from_pretrained(tmp_path / "own" / "unet")
        without = stock(images, at, encoder_hidden_states=text).sample
        stock.load_lora_adapter(out, prefix="unet", weight_name=LORA)
        for module in wrapped.modules():
            if isinstance(getattr(module, "scaling", None), dict):
                module.scaling["default"] = 4.0 * alpha
        ours = model.unet(images, at, encoder_hidden_states=text).sample
        theirs = stock(images, at, encoder_hidden_states=text).sample
        assert torch.allclose(ours, theirs, atol=1e-5)
        assert not torch.allclose(ours, without, atol=1e-2)
