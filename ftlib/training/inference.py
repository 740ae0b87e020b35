"""The forward-only pass: a model and a split to the table of per-example outcomes."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.outcomes import Outcomes
from ftlib.recipe import Compute
from ftlib.training.batches import PreparedSplit, by_length

ROWS = 32
# Logits of language modelling take tokens x vocabulary: 2,048 x 50,000 in fp32 are 400 MB.
TOKENS: dict[BatchKind, int] = {"labeled": 32_768, "tokens": 2_048}


@dataclass(frozen=True)
class _Answers:
    """What one batch adds to the table."""

    nll: Float[Tensor, " rows"]
    targets: Int[Tensor, " rows"]
    probabilities: Float[Tensor, "rows labels"] | None = None


def predict_split(
    model: nn.Module,
    split: PreparedSplit,
    kind: BatchKind,
    labels: tuple[str, ...],
    on_rows: Callable[[int], None] = lambda _: None,
) -> Outcomes:
    """Run a model in eval mode over every row and return what it said, in the split's order.

    Batches are a pure function of the rows' lengths: the same for every model, so that models differ by their weights
    alone and not by padding. `on_rows` hears the rows done so far. Raises ModelError for a result that is not finite.
    """
    size = max(1, min(ROWS, TOKENS[kind] // max(1, int(split.lengths.max(initial=0)))))
    device = next(model.parameters()).device
    nll = np.zeros(len(split), np.float64)
    targets = np.zeros(len(split), np.int64)
    probabilities = np.zeros((len(split), len(labels)) if kind == "labeled" else (0, 0), np.float32)
    done = 0
    model.eval()
    with torch.inference_mode():
        for rows in by_length(split.lengths, size):
            answers = _labeled(model, split, rows, device) if kind == "labeled" else _tokens(model, split, rows, device)
            nll[rows], targets[rows] = answers.nll.cpu().numpy(), answers.targets.cpu().numpy()
            if answers.probabilities is not None:
                probabilities[rows] = answers.probabilities.cpu().numpy()
            done += len(rows)
            on_rows(done)
    _check_finite(nll, split)
    labeled = kind == "labeled" and split.labels is not None
    empty = np.zeros(0, np.int64)
    return Outcomes(
        row_ids=tuple(split.row_ids.to_pylist()),
        nll=nll,
        targets=targets,
        labels=labels if labeled else (),
        gold=np.asarray(split.labels) if labeled else empty,
        predicted=probabilities.argmax(axis=1) if labeled else empty,
        probabilities=probabilities,
        slices={name: tuple(column.to_pylist()) for name, column in split.slices.items()},
    )


def target_bytes(split: PreparedSplit, tokenizer: Any) -> Int[np.ndarray, " rows"]:
    """Return how many bytes of UTF-8 each row's targets spell: all tokens but the first, special ones aside."""
    texts = (
        tokenizer.decode(split.tokens(row)[1:], skip_special_tokens=True, clean_up_tokenization_spaces=False)
        for row in range(len(split))
    )
    return np.fromiter((len(text.encode()) for text in texts), np.int64, len(split))


def _labeled(model: nn.Module, split: PreparedSplit, rows: Int[np.ndarray, " batch"], device: torch.device) -> _Answers:
    batch = split.batch(rows, device)
    assert batch.labels is not None
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    log_probabilities = logits.double().log_softmax(dim=-1)
    nll = -log_probabilities.gather(1, batch.labels[:, None])[:, 0]
    return _Answers(nll, torch.ones_like(batch.labels), log_probabilities.exp().float())


def _tokens(model: nn.Module, split: PreparedSplit, rows: Int[np.ndarray, " batch"], device: torch.device) -> _Answers:
    """Score every token but the first, given those before it; padding is no target."""
    batch = split.batch(rows, device)
    logits: Tensor = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    is_target = batch.attention_mask[:, 1:]
    losses = nn.functional.cross_entropy(
        logits[:, :-1].float().transpose(1, 2), batch.input_ids[:, 1:], reduction="none"
    )
    # `where`, not a product: a NaN on a padded position must not reach the sum.
    nll = torch.where(is_target.bool(), losses, 0.0).double().sum(dim=1)
    return _Answers(nll, is_target.sum(dim=1))


def _check_finite(nll: Float[np.ndarray, " rows"], split: PreparedSplit) -> None:
    bad = np.flatnonzero(~np.isfinite(nll))
    if len(bad):
        raise ModelError(
            f"the model's answer is not finite on {len(bad)} of {len(nll)} rows, first on row "
            f"{split.row_ids[int(bad[0])]}: its weights overflow; lower the learning rate"
        )


@contextmanager
def resources(compute: Compute) -> Generator[torch.device]:
    """Give the device to run on, with all of the CPU threads the recipe grants; what was set before is restored.

    Raises ModelError if a GPU is wanted and none is there.
    """
    if compute.use_gpu and not torch.cuda.is_available():
        raise ModelError(
            "compute.use_gpu is true, but torch sees no GPU here; set it to false or run where there is one"
        )
    before = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    torch.set_num_threads(min(cores, (compute.threads or cores) * max(1, compute.workers)))
    try:
        yield torch.device("cuda" if compute.use_gpu else "cpu")
    finally:
        torch.set_num_threads(before)
