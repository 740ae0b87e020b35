"""What is asked of a model by each kind of batch: which layer answers, what it is taught, what it is heard to say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pyarrow as pa
from jaxtyping import Float, Int
from torch import Tensor, nn

from ftlib.errors import RecipeError
from ftlib.kinds.batch import Batch
from ftlib.kinds.outcomes import Outcomes
from ftlib.kinds.samples import Samples
from ftlib.kinds.split import PreparedSplit
from ftlib.kinds.targets import Targets


@dataclass(frozen=True)
class Request:
    """What a model is asked; a kind's answers read what they need of it."""

    split: PreparedSplit
    labels: tuple[str, ...]
    """In the order of the model's logits; empty without labels."""
    tokenizer: Callable[[], Any]
    """Loads the model's, for answers that are text."""
    max_new_tokens: int
    """How much it may write after a prompt, for the kind of batch that has prompts; 0: nothing."""
    num_beams: int = 1
    """How many beginnings of an answer it keeps while it writes; 1: the most probable token at each place."""
    samples: Samples | None = None
    """How many answers it draws beside that one, and how; None: none."""


class Answers(ABC):
    """Collects what a model says, batch by batch, until every row of the split was asked."""

    nll: Float[np.ndarray, " rows"]
    """Each row's negative log-likelihood so far, in nats."""

    @abstractmethod
    def add(self, model: nn.Module, batch: Batch, rows: Int[np.ndarray, " rows"]) -> None:
        """Ask the model about these rows."""

    @abstractmethod
    def outcomes(self, common: Mapping[str, Any]) -> Outcomes:
        """Return the table; `common` are the row ids and slices."""


class Head(ABC):
    """One kind of batch, as models see it."""

    auto_class: ClassVar[Any]
    """The transformers class that loads a model with this head."""
    largest_batch: ClassVar[int]
    """Tokens of a batch that is measured, padding included: what its logits take follows from it."""

    @abstractmethod
    def config(self, labels: Sequence[str]) -> dict[str, object]:
        """Return what a model's config must say for these labels, beside their names."""

    @abstractmethod
    def targets(self, table: pa.Table, labels: Sequence[str], path: Path) -> Targets | None:
        """Return what the rows of a split are taught, by the `target` column of its table or by the tokens.

        The table may be several files' (mixed batches); `path` is the first one's, for errors alone. Raises DataError
        for a label the model does not have.
        """

    def logits(self, output: Any) -> Tensor:
        """Return all logits of what a model's forward pass returned, as one tensor."""
        return output.logits

    def answered(self, batch: Batch) -> Batch:
        """Return a batch as its answers are asked for one by one, without what its rows bring for training alone."""
        return batch

    def scores(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return what a frozen model's answer to each row is in a number or a few: its logits."""
        return cast(Any, model)(**batch.inputs).logits

    def numbers(self, labels: int) -> tuple[int, ...]:
        """Return the shape of one row's `scores`, by a model with so many labels."""
        return (max(1, labels),)

    def drawn_log_prob(self, model: nn.Module, batch: Batch, random: np.random.Generator) -> Float[Tensor, ""]:
        """Return log p(y | rows) of answers y that are drawn from the model itself; gradients reach the model.

        Summed over all that the batch is taught: rows, tags, supervised tokens. Raises RecipeError for a kind of batch
        whose model gives no distribution to draw from.
        """
        raise RecipeError(
            f"{type(self).__name__.removesuffix('Head')}: no Fisher information is measured for this kind of rows, "
            "so ewc cannot be asked to keep them; use l2_sp or spd"
        )

    @abstractmethod
    def answers(self, asked: Request) -> Answers:
        """Return a collector for a split's answers; it loads the tokenizer only if it reads or writes text."""
