"""One objective, asked about global batches: it is given what it says it takes, and no more.

An objective has `needs` and `loss(model, batch)`. Beside that it may have

    companions: ClassVar[tuple[str, ...]]     frozen models; `loss` and `prepare` get `companions`, a mapping of them
    companions_answer: ClassVar[BatchKind]    the kind that these answer, one without labels, if not the phase's own
    prepare(model, batch) -> Prepared         a pass without gradients over the global batch; `loss` gets its `context`
    counts_known: ClassVar[bool] = False      how many items it counts is known only from `prepare`
    remember(model, batch) -> Prepared        as `prepare`, by the weights of the teacher: those of some steps ago
    renewal: int                              every how many steps the teacher takes the weights; first it is the start
    count_of(rows) -> int                     how many items it counts, of the `rows` of what was prepared
    drops_out: ClassVar[bool] = False         the model's dropout is off in training, as it was in what scored the rows
    anchors: ClassVar[tuple[str, ...]]        those of its scores that it is kept near: the start is, as it was rounded
    first_loss: float | None                  the loss of the first step where what scored the rows is the start
    packs: ClassVar[bool] = True              it reads packed rows right: of a `Batch` that has `borders`
    counts_rows: bool                         it counts rows, though several terms of a row are supervised
    writes: ClassVar[bool] = True             rows are what the model writes; beside it is its start (`policy_loop.py`)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import nn

from ftlib.config import BatchKind
from ftlib.data.inputs import answer_mask
from ftlib.errors import TrainingError
from ftlib.kinds.augment import Augment
from ftlib.kinds.batch import Batch, LossSum
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.packing import settle_packing
from ftlib.kinds.split import PreparedSplit
from ftlib.training.group import Group
from ftlib.training.loops.batches import micro_batches, packs
from ftlib.training.loops.ema import Average, averaged
from ftlib.training.loops.modes import answering
from ftlib.training.objectives.prepared import NOTHING, Context, Prepared, joined


@dataclass(frozen=True)
class Piece:
    """One rank's micro-batch."""

    rows: Int[np.ndarray, " rows"]
    counts: bool
    """False for the rows that a rank repeats to take part in a collective pass; they weigh nothing."""
    context: Context | None = None
    batch: Batch | None = None
    """The rows as the model is given them, where they were built before they were asked about."""
    recalled: torch.Tensor | None = None
    """What the moving average of the weights says of the rows, in logits."""
    recall: float = 0.0
    """What the divergence from that counts, for each answer of the piece."""


class Asking:
    """An objective with the model that it is asked about, on one rank."""

    def __init__(
        self,
        objective: Any,
        model: nn.Module,
        collate: Collator,
        group: Group,
        *,
        companions: Mapping[str, nn.Module],
        precision: Literal["fp32", "bf16"] = "fp32",
        micro_batch_size: int | None = None,
        pack_tokens: int | None = None,
    ) -> None:
        """Take a model and its companions as they are spread over the group.

        With `pack_tokens` a micro-batch is a pack of at most so many tokens, and not `micro_batch_size` rows.
        """
        self.objective, self.model, self.collate, self.group = objective, model, collate, group
        self._precision, self._size, self._pack_tokens = precision, micro_batch_size, pack_tokens
        asks = getattr(objective, "companions", ()) or getattr(objective, "writes", False)
        self._beside = {"companions": companions} if asks else {}
        self._prepare = getattr(objective, "prepare", None)
        self._remember = getattr(objective, "remember", None)
        self._count_of = getattr(objective, "count_of", None)
        self._teacher: Average | None = None
        self._average: Average | None = None
        self._self_kl = 0.0
        self._counts_rows: bool = getattr(objective, "counts_rows", False)
        self.drops_out: bool = getattr(objective, "drops_out", True)
        """Whether the model's dropout is on while it trains."""
        self._counts_known: bool = getattr(objective, "counts_known", True)

    def remembers(self, teacher: Average | None, average: Average | None, self_kl: float) -> None:
        """Let it ask the model by weights of before: an objective's teacher, and the moving average.

        Without a teacher the model is its own. `self_kl` weighs the divergence from the average, in training.
        """
        self._teacher, self._average, self._self_kl = teacher, average, self_kl

    def pieces(
        self,
        split: PreparedSplit,
        rows: Int[np.ndarray, " batch"],
        built: Sequence[Piece] | None = None,
        *,
        augment: Augment | None = None,
        draw: Sequence[int] = (),
    ) -> tuple[list[Piece], int]:
        """Return this rank's pieces of a global batch, and the supervised items of all ranks' pieces.

        `built` is what `build` made of the same rows; `augment` is what the loss will change them by, and `draw` what
        the objective's random numbers depend on beside them. Raises TrainingError if the objective should count, and
        did not, or for a row that is longer than a pack.
        """
        pieces = self._dealt(split, rows) if built is None else [*built]
        count = len(rows) if self._counts_rows else int(split.terms(rows).sum())
        if self._prepare is not None or self._remember is not None:
            pieces, count = self._prepared(split, pieces, rows, count, draw)
        if self._self_kl and torch.is_grad_enabled():
            pieces = self._recalled(split, pieces, rows, count, augment)
        return pieces, count

    def build(self, split: PreparedSplit, rows: Int[np.ndarray, " batch"]) -> list[Piece]:
        """Return this rank's pieces with their batches on the device; nothing is asked, so a thread may do it.

        Raises TrainingError for a row that is longer than a pack.
        """
        return [replace(piece, batch=self._batch(split, piece, None)) for piece in self._dealt(split, rows)]

    def _dealt(self, split: PreparedSplit, rows: Int[np.ndarray, " batch"]) -> list[Piece]:
        rank, world_size = self.group.rank, self.group.world_size
        if self._pack_tokens is None:
            dealt = micro_batches(rows, rank, world_size, self._size)
        else:
            dealt = packs(rows, split.sizes, rank, world_size, self._pack_tokens)
        return [Piece(mine, counts) for mine, counts in dealt]

    def check_packing(self, parts: Sequence[PreparedSplit]) -> None:
        """Prove that the model, and who is asked beside it, keep the rows of a pack apart, where rows are packed.

        Raises ModelError for a model that does not.
        """
        if self._pack_tokens is None:
            return
        beside = self._beside.get("companions", {}).values()
        for model in (self.model, *beside):
            for split in parts:
                with answering(model), self._autocast():
                    settle_packing(model, split, self.collate, self._pack_tokens)

    def loss(self, split: PreparedSplit, piece: Piece, augment: Augment | None = None) -> LossSum:
        """Return the objective's loss of one piece, whose rows `augment` changes first."""
        context = {} if piece.context is None else {"context": piece.context}
        loss: LossSum = self._ask(self.objective.loss, split, piece, context, augment)
        if piece.recalled is None:
            return loss
        answers = self._ask(partial(_answers, split.kind), split, piece, {}, augment)
        return replace(loss, total=loss.total + piece.recall * _divergence(piece.recalled, answers))

    @torch.no_grad()
    def _prepared(
        self,
        split: PreparedSplit,
        pieces: list[Piece],
        rows: Int[np.ndarray, " batch"],
        count: int,
        draw: Sequence[int],
    ) -> tuple[list[Piece], int]:
        """Hand every piece its context; count the supervised items where nothing but the objective knows them."""
        with answering(self.model):
            prepared = [self._ask(self._prepare, split, piece, {}) if self._prepare else NOTHING for piece in pieces]
            if self._remember:
                with averaged(self._teacher):
                    remembered = [self._ask(self._remember, split, piece, {}) for piece in pieces]
                prepared = [joined(*both) for both in zip(remembered, prepared, strict=True)]
        weighs = [piece.counts for piece in pieces]
        sums: dict[str, torch.Tensor] = {}
        for name, first in prepared[0].sums.items():
            mine = torch.stack([one.sums[name].double() * counts for one, counts in zip(prepared, weighs, strict=True)])
            sums[name] = self.group.add_up(mine.sum(dim=0)).to(first.dtype)
        if not self._counts_known and self._count_of is None:
            count = self._counted([one.count for one, counts in zip(prepared, weighs, strict=True) if counts])
        places = [torch.from_numpy(places_of(piece.rows, rows)) for piece in pieces]
        together = self._together(prepared, weighs, places, len(rows))
        count = count if self._count_of is None else self._count_of(together)
        contexts = [
            Context(sums, one.kept, together, where.to(self.group.device), tuple(draw))
            for one, where in zip(prepared, places, strict=True)
        ]
        return [replace(piece, context=context) for piece, context in zip(pieces, contexts, strict=True)], count

    @torch.no_grad()
    def _recalled(
        self,
        split: PreparedSplit,
        pieces: list[Piece],
        rows: Int[np.ndarray, " batch"],
        count: int,
        augment: Augment | None,
    ) -> list[Piece]:
        """Ask the moving average about every piece; its divergence is a mean over the batch's answers, whatever counts.

        The average has dropout off.
        """
        with answering(self.model), averaged(self._average):
            recalled = [self._ask(partial(_answers, split.kind), split, piece, {}, augment) for piece in pieces]
        answers = int(split.lengths[rows].sum()) if KINDS[split.kind].diverges_by == "token" else len(rows)
        share = self._self_kl * count / max(1, answers)
        return [replace(piece, recalled=one, recall=share) for piece, one in zip(pieces, recalled, strict=True)]

    def _together(
        self, prepared: Sequence[Prepared], weighs: Sequence[bool], places: Sequence[torch.Tensor], rows: int
    ) -> dict[str, torch.Tensor]:
        """Bring what each row came to together from all pieces of all ranks; a row that is repeated counts once."""
        together: dict[str, torch.Tensor] = {}
        for name, first in prepared[0].rows.items():
            mine = torch.zeros((rows, *first.shape[1:]), dtype=torch.float64, device=first.device)
            for one, counts, where in zip(prepared, weighs, places, strict=True):
                if counts:
                    mine[where.to(first.device)] = one.rows[name].double()
            together[name] = self.group.add_up(mine).to(first.dtype)
        return together

    def _counted(self, counts: Sequence[int | None]) -> int:
        if None in counts:
            raise TrainingError(
                f"objective {self.objective.kind!r} says that its counts are not known before, and its `prepare` "
                "gives none; return a Prepared with a count"
            )
        return int(self.group.sum(float(sum(count or 0 for count in counts)))[0])

    def _ask(
        self, method: Any, split: PreparedSplit, piece: Piece, more: Mapping[str, Any], augment: Augment | None = None
    ) -> Any:
        batch = self._batch(split, piece, augment)
        with self._autocast():
            return method(self.model, batch, **self._beside, **more)

    def _batch(self, split: PreparedSplit, piece: Piece, augment: Augment | None) -> Batch:
        if piece.batch is not None:
            return piece.batch
        if self._pack_tokens is None:
            return split.batch(piece.rows, self.collate, augment)
        return split.pack(piece.rows, self.collate)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.group.device.type, torch.bfloat16, enabled=self._precision == "bf16")


def _answers(kind: BatchKind, model: nn.Module, batch: Batch, **_: object) -> torch.Tensor:
    """Return answers x logits: of each row, or of each token that is no padding; of two stacks, the decoder's."""
    logits = KINDS[kind].head().logits(model(**batch.inputs)).float()
    return logits if logits.ndim == 2 else logits[batch.inputs[answer_mask(batch.inputs)].bool()]


def _divergence(teacher: torch.Tensor, student: torch.Tensor) -> torch.Tensor:
    """Return KL(teacher || student) in nats, summed over answers."""
    p, q = teacher.log_softmax(-1), student.log_softmax(-1)
    return nn.functional.kl_div(q, p, reduction="sum", log_target=True)


def places_of(some: Int[np.ndarray, " rows"], rows: Int[np.ndarray, " batch"]) -> Int[np.ndarray, " rows"]:
    """Return where some of a batch's rows stand in it."""
    order = np.argsort(rows, kind="stable")
    return order[np.searchsorted(rows, some, sorter=order)]
