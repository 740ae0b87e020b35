"""What a frozen model says of each row in one number or a few: what training reads instead of asking it every step."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn
from typing_extensions import override

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import add_scores, split_file
from ftlib.errors import ModelError
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of
from ftlib.evaluation.inference import InferencePlan, Models
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load
from ftlib.kinds.open_split import open_split
from ftlib.kinds.split import PreparedSplit
from ftlib.models.checkpoint import Checkpoint, FoundModel


class ScorePlan(InferencePlan[np.ndarray]):
    """Which model to ask about which splits, and where the splits go with a column more."""

    kind: Literal["scores"] = "scores"
    model: FoundModel | Checkpoint
    data: PreparedDataset
    splits: tuple[Split, ...]
    labels: tuple[str, ...]
    """In the order of the model's logits."""
    precision: Literal["fp32", "bf16"]
    folder: str
    """Where the splits are written; one that is there is not made again."""
    fingerprint: str
    """The job's."""

    @property
    @override
    def what(self) -> str:
        return f"score {self.name}"

    @property
    @override
    def job_file(self) -> Path:
        return Path(self.folder, f"score-{self.fingerprint}.json")

    @property
    @override
    def made(self) -> list[Path]:
        return [split_file(Path(self.folder), split) for split in self.splits]

    @override
    def models(self, device: torch.device) -> Models[np.ndarray]:
        return _Scorer(self, device)

    @override
    def rows(self, item: int) -> PreparedSplit:
        return open_split(split_file(self.data.path, self.splits[item]), self.labels)

    @override
    def done_before(self, item: int) -> tuple[int, int]:
        rows = [self.data.splits[split].rows for split in self.splits]
        return sum(rows[:item]), sum(rows)

    @override
    def make(self, answer: Callable[[int], np.ndarray]) -> None:
        """Write every split that is not there, under its name once it is whole."""
        for item, split in enumerate(self.splits):
            target = split_file(Path(self.folder), split)
            if not target.exists():
                part = target.with_suffix(".part")
                add_scores(split_file(self.data.path, split), part, self.name, answer(item))
                part.replace(target)

    @override
    def to_bytes(self, answer: np.ndarray) -> bytes:
        np.save(data := io.BytesIO(), answer, allow_pickle=False)
        return data.getvalue()

    @override
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> np.ndarray:
        answers = [np.load(io.BytesIO(part), allow_pickle=False) for part in parts]
        # A share without batches does not know how many numbers a row has.
        return np.concatenate([one for one in answers if len(one)] or answers)[order]


class _Scorer(Models[np.ndarray]):
    """The plan's model in memory."""

    def __init__(self, plan: ScorePlan, device: torch.device) -> None:
        self._plan, self._model = plan, load(plan.model, plan.data.kind).to(device)

    @override
    def answer(
        self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING
    ) -> np.ndarray:
        return score_rows(self._model, self._plan.rows(item), self._plan.precision, on_rows, share)


def score_rows(
    model: nn.Module,
    split: PreparedSplit,
    precision: Literal["fp32", "bf16"],
    on_rows: Callable[[int], None],
    share: Share = EVERYTHING,
) -> Float[np.ndarray, " *rows"]:
    """Return the number or numbers of every row of the share, in the split's order and float32.

    Of a language model it is log p(supervised tokens), of each answer where a row has several; of others the row's
    logits.
    They are computed by the forward pass of training, in its precision and with dropout off. `on_rows` hears how many
    rows are done. Raises ModelError for a number that is not finite.
    """
    collate, head, done = Collator.of(model), KINDS[split.kind].head(), 0
    scores_by_row: dict[int, Float[np.ndarray, " *row"]] = {}
    model.eval()
    with torch.inference_mode(), torch.autocast(collate.device.type, torch.bfloat16, enabled=precision == "bf16"):
        for rows in batches_of(split, share):
            batch = split.batch(rows, collate)
            scores = head.scores(model, batch).float().cpu().numpy()
            scores_by_row |= dict(zip(rows.tolist(), scores, strict=True))
            done += len(rows)
            on_rows(done)
    scores = (
        np.stack([scores_by_row[row] for row in sorted(scores_by_row)]) if scores_by_row else np.zeros(0, np.float32)
    )
    if not np.isfinite(scores).all():
        raise ModelError("its answer is not finite on some rows: its weights overflow; choose another model")
    return scores
