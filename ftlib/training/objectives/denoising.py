"""The squared error of a denoiser, each amount of noise weighed."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config
from ftlib.kinds.batch import Batch, LossSum


class Denoising(Config):
    """Squared error of what a U-Net says of a noisy image (Ho et al. 2020, arXiv 2006.11239), by its scheduler's word.

    Amounts of noise conflict less if none counts more than its signal-to-noise ratio allows (min-SNR, Hang et al. 2023,
    arXiv 2303.09556): the weight of a timestep is min(SNR, gamma) of the error of the image, which is min(SNR, gamma) /
    SNR of that of the noise (`epsilon`) and min(SNR, gamma) / (SNR + 1) of that of the velocity (`v_prediction`).
    Noise, timestep and dropped captions are functions of the seed, the epoch and the row.
    """

    kind: Literal["denoising"] = "denoising"
    min_snr_gamma: float | None = Field(default=5.0, gt=0.0)
    """How much of the signal-to-noise ratio counts at most; null: every timestep counts the same."""
    caption_dropout: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of rows whose caption is dropped in training, so that guidance can ask without one."""

    needs: ClassVar[BatchKind] = "captioned_images"

    def loss(self, model: Any, batch: Batch) -> LossSum:
        """Return the summed weighed error, each row's a mean over what it is made of, and the number of rows."""
        from ftlib.kinds.heads.captioned_images import squared_errors

        dropped = self.caption_dropout if model.training else 0.0
        said = model(**batch.inputs, noise_seeds=batch.targets, caption_dropout=dropped)
        errors = squared_errors(said)
        weights = self.weights(said.snr, _config(model).predicts).to(errors)
        return LossSum((weights * errors).sum(), len(batch))

    def weights(self, snr: Any, predicts: str) -> Any:
        """Return what each row's error counts, by its signal-to-noise ratio and what is predicted."""
        if self.min_snr_gamma is None:
            return snr * 0 + 1
        most = snr.clamp(max=self.min_snr_gamma)
        # Schedules that end in noise alone have no signal there: such a timestep teaches nothing of the noise.
        return {"epsilon": most / snr.clamp(min=1e-8), "v_prediction": most / (snr + 1), "sample": most}[predicts]


def _config(model: Any) -> Any:
    plain = getattr(model, "module", model)  # DDP's replica
    return getattr(plain, "get_base_model", lambda: plain)().config
