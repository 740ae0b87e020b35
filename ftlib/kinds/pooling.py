"""One vector for each text: what sentence encoders say."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ftlib.data.inputs import ATTENTION_MASK


def pooled(model: Any, inputs: Any) -> Float[Tensor, "texts width"]:
    """Return the mean of each text's tokens, special ones included, of length 1 and in float32.

    That is `mean` pooling and normalisation, as sentence-transformers does both.
    """
    states, mask = model(**inputs).last_hidden_state.float(), inputs[ATTENTION_MASK][..., None]
    return normalised((states * mask).sum(1) / mask.sum(1).clamp(min=1))


def normalised(vectors: Float[Tensor, "texts width"]) -> Float[Tensor, "texts width"]:
    """Return vectors of length 1."""
    return nn.functional.normalize(vectors, dim=-1, eps=torch.finfo(vectors.dtype).tiny)
