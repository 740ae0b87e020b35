"""Attention within each row of a pack: no mask of tokens x tokens, and nothing computed between two rows.

It is registered with transformers by `NAME`, beside its own `sdpa`, and does what that does wherever it is not told of
a pack. On a GPU a pack is one call of FlashAttention's kernel for rows of any lengths, `torch.nn.attention.varlen`;
elsewhere, and for what the kernel does not compute, each row is a call of torch's scaled dot-product attention.

The trap: transformers hands what it does not know of to the attention, layer by layer, but not in every family. Where
the borders do not arrive, the mask in their place is none that any attention can use: it fails, and does not leak.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ftlib.kinds.batch import Batch

NAME = "sdpa_of_packs"


def plain_model(model: Any) -> Any:
    """Return transformers' own model, inside of what DDP and peft wrap around it."""
    inner = getattr(model, "module", model)
    return getattr(inner, "get_base_model", lambda: inner)()


def attends_in_packs(plain: Any) -> bool:
    """Say whether a model of transformers' has this attention."""
    return getattr(getattr(plain, "config", None), "_attn_implementation", None) == NAME


def borders_of(batch: Batch) -> dict[str, Any]:
    """Return what a model whose attention is `NAME` is called with beside a pack's inputs.

    The names are transformers' own, by which every layer is handed them.
    """
    assert batch.borders is not None
    return {
        "attention_mask": torch.empty((1, 1, 0, 0), dtype=torch.bool, device=batch.borders.device),
        "cu_seq_lens_q": batch.borders,
        "cu_seq_lens_k": batch.borders,
        "max_length_q": batch.longest,
        "max_length_k": batch.longest,
    }


def attend(
    module: nn.Module,
    query: Float[Tensor, "rows heads tokens size"],
    key: Float[Tensor, "rows few_heads tokens size"],
    value: Float[Tensor, "rows few_heads tokens size"],
    attention_mask: Tensor | None,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    **more: Any,
) -> tuple[Float[Tensor, "rows tokens heads size"], None]:
    """Attend as transformers' `sdpa` does, and in a pack within each row alone."""
    if cu_seq_lens_q is None or max_length_q is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **more)
    if torch.is_autocast_enabled(query.device.type):  # rotary positions leave query and key in float32
        low = torch.get_autocast_dtype(query.device.type)
        query, key, value = (one.to(low) for one in (query, key, value))
    window: int | None = more.pop("sliding_window", None)
    if not dropout and _has_kernel(module, query, value, more):
        return _by_kernel(query, key, value, scaling, window, cu_seq_lens_q, max_length_q), None
    lengths = cu_seq_lens_q.diff().tolist()
    rows = zip(*(one.split(lengths, dim=2) for one in (query, key, value)), strict=True)
    by_row = [
        sdpa_attention_forward(module, q, k, v, _window(q, window), dropout, scaling, **more)[0] for q, k, v in rows
    ]
    return torch.cat(by_row, dim=1), None


def _has_kernel(module: nn.Module, query: Tensor, value: Tensor, more: dict[str, Any]) -> bool:
    """Say whether FlashAttention computes this: causal, in half precision, heads of one size in steps of 8 to 256."""
    plain = more.get("softcap") is None and more.get("position_bias") is None
    causal = more.get("is_causal", getattr(module, "is_causal", True))
    fits = query.shape[-1] == value.shape[-1] <= 256 and query.shape[-1] % 8 == 0
    return causal and plain and fits and query.is_cuda and query.dtype.itemsize == 2


def _by_kernel(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None, borders: Tensor, longest: int
) -> Tensor:
    """Attend by one call for all rows of a pack. The kernel's window leaves out the token itself; ours counts it."""
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = (one.transpose(1, 2).squeeze(0) for one in (query, key, value))
    attended = varlen_attn(
        query,
        key,
        value,
        borders,
        borders,
        longest,
        longest,
        scale=scaling,
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    assert isinstance(attended, Tensor)  # another is returned only with `return_aux`
    return attended.unsqueeze(0)


def _window(query: Tensor, window: int | None) -> Tensor | None:
    """Return what each token of a row sees, itself and those before it; None for all of them."""
    tokens = query.shape[2]
    if window is None or tokens <= window:
        return None
    places = torch.arange(tokens, device=query.device)
    back = places[:, None] - places
    return ((back >= 0) & (back < window))[None, None]


AttentionInterface.register(NAME, attend)
AttentionMaskInterface.register(NAME, sdpa_mask)
