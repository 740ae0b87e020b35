"""What a masked language model says of the tokens that were hidden from it."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from ftlib.kinds.batch import UNTAUGHT, Batch


def hidden_tokens(model: Any, batch: Batch) -> tuple[Float[Tensor, "hidden vocabulary"], Int[Tensor, " hidden"]]:
    """Return the logits of every hidden token of a batch in float32, row by row, and which token each is."""
    assert batch.targets is not None
    assert batch.terms is not None
    logits, meant = model(**batch.inputs).logits.flatten(0, 1), batch.targets.flatten()
    # Their number is known, so a GPU is not waited for; float32 of all logits would be as large again.
    places = (meant != UNTAUGHT).nonzero_static(size=batch.terms)[:, 0]
    return logits[places].float(), meant[places]
