"""What embeds sentences and rows alike, for a zero-shot head: the model's own body, or a CLIP model beside it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.data.inputs import ATTENTION_MASK, INPUT_IDS
from ftlib.errors import ModelError, RecipeError
from ftlib.kinds.collate import Collator
from ftlib.kinds.loading import is_adapted, load_encoder, load_tokenizer
from ftlib.models.folder import read_config
from ftlib.models.limits import limits_of
from ftlib.training.solved.frozen_features import BATCH, Reader, answers
from ftlib.training.tuning.base import ENCODER, Problem

Vectors = Float[np.ndarray, "_ width"]
Ids = tuple[int, ...]
"""A sentence's tokens, special ones included."""


@dataclass(frozen=True)
class Encoder:
    """What embeds rows and sentences, to be used where the model's last layer is `handing_on`."""

    read: Reader
    """From a batch of rows to what the model's last layer reads of them, and their embeddings."""
    embed: Callable[[Mapping[str, Tensor]], Tensor]
    """From a batch of sentences to their embeddings."""
    collate: Collator
    """Of sentences."""
    folder: Path
    """Whose tokenizer makes tokens of a sentence, and whose limits it keeps."""
    scale: float | None
    """What it learned to multiply cosines with."""

    @torch.inference_mode()
    def embedded(self, sentences: Sequence[Ids]) -> Vectors:
        """Return the sentences' embeddings, in their order."""
        batches = [sentences[i : i + BATCH] for i in range(0, len(sentences), BATCH)]
        embeddings = [self.embed(self.collate({INPUT_IDS: batch})) for batch in batches]
        return np.concatenate([one.float().cpu().numpy() for one in embeddings])

    def tokenized(self, spoken: Mapping[str, Sequence[str]]) -> dict[str, list[Ids]]:
        """Return the ids of each label's sentences.

        Raises RecipeError for one that the tokenizer makes nothing of, that is longer than what the model reads, or
        that is another label's too: to some tokenizers upper case is nothing.
        """
        tokenizer, most = load_tokenizer(self.folder), limits_of(self.folder).positions
        empty, owners = tokenizer.num_special_tokens_to_add(), dict[Ids, str]()
        ids_of: dict[str, list[Ids]] = {}
        for label, sentences in spoken.items():
            encoded = tokenizer(list(sentences), verbose=False, split_special_tokens=True)[INPUT_IDS]
            ids_of[label] = [*map(tuple, encoded)]
            for sentence, ids in zip(sentences, ids_of[label], strict=True):
                where = f"tuning.sentences: {sentence!r} of the label {label!r}"
                if len(ids) <= empty:
                    raise RecipeError(f"{where} has no token that the model knows; say something else")
                if most is not None and len(ids) > most:
                    raise RecipeError(f"{where} has {len(ids):,} tokens, and the model reads {most:,}; shorten it")
                if (other := owners.setdefault(ids, label)) != label:
                    raise RecipeError(
                        f"{where} is one of {other!r} too, as the model reads it, and cannot tell them apart; give "
                        "each label its own"
                    )
        return ids_of


@contextmanager
def encoder(problem: Problem, embedding: Literal["mean", "first", "head"]) -> Generator[Encoder]:
    """Give the encoder of a problem: its companion if it has one, or else the model that trains."""
    if companion := problem.companions.get(ENCODER):
        if embedding != "mean":
            raise RecipeError(
                f"tuning.embedding: is of texts that the model itself reads, got {embedding!r}, and here the companion "
                f"{ENCODER!r} embeds them in its own way; leave it out"
            )
        yield _beside(problem.model, companion.folder)
        return
    with _reading(problem.model, embedding) as read:
        collate = Collator.of(problem.model)
        yield Encoder(read, lambda inputs: read(inputs)[1], collate, problem.folder, scale=None)


@contextmanager
def _reading(model: nn.Module, embedding: Literal["mean", "first", "head"]) -> Generator[Reader]:
    """Give what reads a batch of texts: the features of the model's last layer, and the texts' embeddings.

    The reader raises ModelError for a model whose body gives no vector for every token.
    """

    def read_features(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        features = answers(model, inputs)
        return features, features

    if embedding == "head":
        yield read_features
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


def _beside(model: nn.Module, folder: Path) -> Encoder:
    """Return a CLIP model that embeds the images that the model reads, and sentences.

    Raises ModelError for another model. SigLIP, for one, reads the last of 64 tokens, padding included.
    """
    if (family := read_config(folder).get("model_type")) != "clip":
        raise ModelError(
            f"companions.{ENCODER}: {folder} is {family or 'nothing that its config says'}, and only a clip model "
            "embeds images and sentences here; give one, or use linear_probe"
        )
    device = next(model.parameters()).device
    clip: Any = load_encoder(folder).to(device)

    def read(inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return answers(model, inputs), clip.get_image_features(**inputs).pooler_output

    def embed(inputs: Mapping[str, Tensor]) -> Tensor:
        return clip.get_text_features(**inputs).pooler_output

    return Encoder(read, embed, Collator.of(clip), folder, scale=float(clip.logit_scale.detach().exp()))
