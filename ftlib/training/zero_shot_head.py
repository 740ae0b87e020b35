"""The zero-shot head: sentences about the labels, embedded, and folded into the layer that makes the logits.

A stock head does not read sentence embeddings: BERT's reads its pooler, RoBERTa's a dense layer of its own, a decoder's
the last token. So the row embeddings e that the sentences are compared with are regressed on what the head does read,
f: e = A f + a by least squares over rows without their labels. Then scale * T (A f + a), with a row of T for each
label, is a linear layer with weight scale * T A and bias scale * T a, which stock transformers loads as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.errors import ModelError, RecipeError, TrainingError
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.labels import LabelTargets
from ftlib.kinds.loading import is_adapted, load_tokenizer
from ftlib.kinds.split import PreparedSplit
from ftlib.models.limits import limits_of
from ftlib.training.frozen_features import BATCH, Reader, answers, handing_on, last_linear, over_rows
from ftlib.training.tuning.base import Facts, Problem
from ftlib.wording import counted

if TYPE_CHECKING:
    from ftlib.training.tuning.zero_shot import ZeroShot

ROWS = 20_000
"""Training rows that the map is fitted on at most, evenly spaced: it has a few hundred numbers for each of them."""
_RIDGES = tuple(10.0**i for i in range(-8, 2))
"""Of the features' mean variance; by leave-one-out error one is chosen."""
_ROUNDING = 1e-10
"""Of the vectors' mean square: a variance below it is rounding. A decoder's first token is the same in every text."""

Vectors = Float[np.ndarray, "_ width"]
Texts = Mapping[str, Sequence[tuple[int, ...]]]
"""The token ids of each label's sentences."""


def make_head(problem: Problem, tuning: ZeroShot) -> Facts:
    """Write the head's last layer, and return what to record of it. Raises as `ZeroShot.solve` says."""
    model, train, validation, phase = problem.model, problem.train, problem.validation, problem.phase
    if len(train) < 2:
        raise TrainingError(f"zero_shot: a map needs at least 2 training rows, got {len(train)}; add rows")
    layer = last_linear(model, problem.head, len(problem.labels), "zero_shot")
    intercept: Any = layer.bias  # torch's annotation leaves out that a layer may have none
    texts = tokenized(tuning.spoken(problem.labels), problem)
    chosen = np.linspace(0, len(train) - 1, min(ROWS, len(train))).astype(np.int64)
    with handing_on(layer), reading(model, tuning.embedding) as read:
        directions = label_embeddings(texts, lambda rows: read_texts(model, read, rows))
        features, embedded = over_rows(model, train, phase, read, chosen)
        unseen = over_rows(model, validation, phase, read)[0] if len(validation) else None
    if tuning.embedding == "head":
        map = Map.onto_itself(features)
    else:
        map = Map.fitted(features, normalized(embedded), intercept=intercept is not None)
    weight, bias = directions @ map.weight, directions @ map.bias
    scale, on = tuning.scale, dict[str, float | int | str]()
    if scale == "auto":
        scale, on = tuning.USUAL, {"scale_chosen_on": "nothing, without validation rows"}
        if unseen is not None:
            scale = best_scale(unseen @ weight.T + bias, gold_of(validation), tuning.SCALES)
            on = {"scale_chosen_on": counted(len(validation), "validation row")}
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(scale * weight))
        if intercept is not None:
            intercept.copy_(torch.from_numpy(scale * bias))
    return {
        "final_loss": mean_loss(scale * (features @ weight.T + bias), gold_of(train)[chosen]),
        "sentences": sum(len(said) for said in texts.values()),
        "scale": scale,
        **on,
        **({} if map.explained is None else {"explained": round(map.explained, 4)}),
    }


class Map(NamedTuple):
    """What makes of a head's features the embedding that sentences are compared with: `weight @ f + bias`."""

    weight: Float[np.ndarray, "embedding features"]
    bias: Float[np.ndarray, " embedding"]
    explained: float | None
    """The share of the embeddings' variance that it tells, of rows that it was not fitted on; None for no fit."""

    @classmethod
    def fitted(cls, features: Vectors, embedded: Vectors, *, intercept: bool) -> Map:
        """Fit it by ridge regression; of `_RIDGES` the one with the least leave-one-out error.

        Raises TrainingError if all rows have the same features, or the same embedding.
        """
        from sklearn.linear_model import RidgeCV

        seen, told = features.astype(np.float64), embedded.astype(np.float64)
        for what, vectors, remedy in (
            ("what the head reads", seen, "give it rows that differ"),
            ("the embedding", told, "give it rows that differ, or another tuning.embedding"),
        ):
            if vectors.var(axis=0).sum() <= _ROUNDING * np.square(vectors).sum(axis=1).mean():
                raise TrainingError(f"zero_shot: {what} is the same for every training row: {remedy}")
        ridges = np.array(_RIDGES) * seen.var(axis=0).mean() * len(seen)
        regression: Any = RidgeCV(alphas=ridges, fit_intercept=intercept).fit(seen, told)
        left = -float(regression.best_score_) / float(told.var(axis=0).mean())
        return cls(regression.coef_, np.broadcast_to(regression.intercept_, told.shape[1]), 1.0 - left)

    @classmethod
    def onto_itself(cls, features: Vectors) -> Map:
        """Divide by the features' root mean square norm, so that a scale means the same for every model."""
        width = features.shape[1]
        size = float(np.sqrt(np.square(features.astype(np.float64)).sum(axis=1).mean()))
        return cls(np.eye(width) / size, np.zeros(width), None)


@contextmanager
def reading(model: nn.Module, embedding: Literal["mean", "first", "head"]) -> Generator[Reader]:
    """Give what reads a batch of texts: the features of the model's last layer, and the texts' embeddings.

    To be used where the last layer is `handing_on`. The reader raises ModelError for a model whose body gives no vector
    for every token.
    """
    if embedding == "head":
        yield lambda inputs: (features := answers(model, inputs), features)
        return
    plain: Any = cast(Any, model).get_base_model() if is_adapted(model) else model
    outputs: list[Any] = []
    hook = plain.base_model.register_forward_hook(lambda _, __, output: outputs.append(output))

    def read(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        features, mask = answers(model, inputs), inputs[ATTENTION_MASK]
        hidden = getattr(outputs.pop(), "last_hidden_state", None)
        if hidden is None or hidden.shape[:2] != mask.shape:
            raise ModelError(
                f"zero_shot: {type(plain).__name__} has no vector for every token of a text, and so no {embedding!r} "
                "embedding; use embedding: head"
            )
        return features, token_mean(hidden, mask) if embedding == "mean" else hidden[:, 0]

    try:
        yield read
    finally:
        hook.remove()


def token_mean(hidden: Float[Tensor, "rows tokens width"], mask: Int[Tensor, "rows tokens"]) -> Tensor:
    """Return the mean over each row's own tokens, padding left out."""
    own = mask[:, :, None].to(hidden.dtype)
    return (hidden * own).sum(dim=1) / own.sum(dim=1)


@torch.inference_mode()
def read_texts(model: nn.Module, read: Reader, texts: Sequence[Sequence[int]]) -> Vectors:
    """Return the embeddings of texts, given as token ids, in their order."""
    collate = Collator.of(model)
    batches = [collate({INPUT_IDS: texts[i : i + BATCH]}) for i in range(0, len(texts), BATCH)]
    return np.concatenate([read(batch)[-1].float().cpu().numpy() for batch in batches])


def label_embeddings(texts: Texts, embed: Callable[[Sequence[Sequence[int]]], Vectors]) -> Vectors:
    """Return each label's embedding: the mean of its texts' normalised ones, normalised again."""
    every = normalized(embed([ids for said in texts.values() for ids in said]))
    ends = np.cumsum([len(said) for said in texts.values()])
    return normalized(np.stack([part.mean(axis=0) for part in np.split(every, ends[:-1])]))


def normalized(vectors: Vectors) -> Vectors:
    """Return each vector divided by its norm, in float64; a vector of zeros as it is."""
    doubled = vectors.astype(np.float64)
    norms = np.linalg.norm(doubled, axis=-1, keepdims=True)
    return doubled / np.where(norms, norms, 1.0)


def tokenized(spoken: Mapping[str, Sequence[str]], problem: Problem) -> Texts:
    """Return the ids of each label's sentences, special tokens included.

    Raises RecipeError for one that the tokenizer makes nothing of, that is longer than what the model reads, or that
    is another label's too: to some tokenizers upper case is nothing.
    """
    tokenizer, most = load_tokenizer(problem.folder), limits_of(problem.folder).positions
    empty, owners = tokenizer.num_special_tokens_to_add(), dict[tuple[int, ...], str]()
    texts: dict[str, list[tuple[int, ...]]] = {}
    for label, sentences in spoken.items():
        found = tokenizer(list(sentences), verbose=False, split_special_tokens=True)[INPUT_IDS]
        texts[label] = [*map(tuple, found)]
        for sentence, ids in zip(sentences, texts[label], strict=True):
            where = f"tuning.sentences: {sentence!r} of the label {label!r}"
            if len(ids) <= empty:
                raise RecipeError(f"{where} has no token that the model knows; say something else")
            if most is not None and len(ids) > most:
                raise RecipeError(f"{where} has {len(ids):,} tokens, and the model reads {most:,}; shorten it")
            if (other := owners.setdefault(ids, label)) != label:
                raise RecipeError(
                    f"{where} is one of {other!r} too, as the model reads it, and cannot tell them apart; give each "
                    "label its own"
                )
    return texts


def gold_of(split: PreparedSplit) -> Int[np.ndarray, " rows"]:
    """Return the place of each row's label."""
    assert isinstance(split.targets, LabelTargets)
    return split.targets.positions


def best_scale(
    cosines: Float[np.ndarray, "rows labels"], gold: Int[np.ndarray, " rows"], scales: Sequence[float]
) -> float:
    """Return the scale of the lowest mean loss; of equals the first."""
    return min(scales, key=lambda scale: mean_loss(scale * cosines, gold))


def mean_loss(logits: Float[np.ndarray, "rows labels"], gold: Int[np.ndarray, " rows"]) -> float:
    """Return the mean cross-entropy in nats."""
    from scipy.special import log_softmax

    return -float(log_softmax(logits, axis=1)[np.arange(len(gold)), gold].mean())
