"""Candidates on one split, to tables of outcomes: the models in memory, and whose turn it is to ask them."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import nn
from typing_extensions import override

from ftlib.config import Split
from ftlib.data.datasets import PreparedDataset
from ftlib.data.prepared import split_file
from ftlib.evaluation.forward_pass import EVERYTHING, Share, batches_of, predict_split
from ftlib.evaluation.inference import InferencePlan, Models, order_of
from ftlib.evaluation.lanes import MOST, Ask, lane_of, side_by_side
from ftlib.evaluation.sweep import Holds, Sweep
from ftlib.fingerprint import digest
from ftlib.kinds.kind import KINDS
from ftlib.kinds.loading import load, load_tokenizer
from ftlib.kinds.open_split import open_split
from ftlib.kinds.outcomes import Outcomes, joined
from ftlib.kinds.outcomes_file import parse_outcomes
from ftlib.kinds.samples import Samples
from ftlib.kinds.split import PreparedSplit
from ftlib.merging.adapter_sweep import AdapterSweep, walks_by_scaling
from ftlib.merging.candidate_weights import mix_into
from ftlib.merging.candidates import Candidate
from ftlib.merging.contents import Contents
from ftlib.merging.in_memory import model_of
from ftlib.models.checkpoint import Checkpoint
from ftlib.models.folder import read_config
from ftlib.models.saved_names import saved_names
from ftlib.workspace import exclusive, write_durably


class PredictionPlan(InferencePlan[Outcomes]):
    """Which candidates to ask about which rows, and where their tables go."""

    kind: Literal["predictions"] = "predictions"
    candidates: tuple[Candidate, ...]
    files: tuple[str, ...]
    """Each candidate's table; one that is there is not made again."""
    data: PreparedDataset
    split: Split
    max_new_tokens: int
    """What a model writes at most after a prompt; 0 where it writes nothing."""
    num_beams: int = 1
    samples: Samples | None = None
    """Answers that it draws for each prompt."""

    @property
    @override
    def what(self) -> str:
        return f"evaluate {self.name}"

    @property
    @override
    def job_file(self) -> Path:
        return Path(self.files[0]).with_name(f"evaluate-{digest(list(self.files))[:16]}.json")

    @property
    @override
    def made(self) -> list[Path]:
        return [Path(file) for file in self.files]

    @override
    def models(self, device: torch.device) -> Predictor:
        return Predictor(self, device)

    @override
    def rows(self, item: int) -> PreparedSplit:
        """Return the rows, with their targets as the candidate's head lays them out."""
        return open_split(split_file(self.data.path, self.split), self.candidates[item].end.labels)

    @override
    def done_before(self, item: int) -> tuple[int, int]:
        rows = self.data.splits[self.split].rows
        return rows * item, rows * len(self.candidates)

    @override
    def make(self, answer: Callable[[int], Outcomes]) -> None:
        """Make and write every table that is not there. Two runs that want the same one do not both make it."""
        for candidate, file in enumerate(map(Path, self.files)):
            with exclusive(file.with_suffix(".lock"), wait=True):
                if not file.exists():
                    write_durably(file, answer(candidate).by_example().to_parquet())

    @override
    def to_bytes(self, answer: Outcomes) -> bytes:
        return answer.to_parquet()

    @override
    def joined(self, parts: Sequence[bytes], order: Int[np.ndarray, " rows"]) -> Outcomes:
        return joined([parse_outcomes(part) for part in parts]).take(order)


class _Lane(NamedTuple):
    """What asks one model about some batches; several ask the same weights at once."""

    model: nn.Module
    sweep: Sweep


class Predictor(Models[Outcomes]):
    """The last candidates' model in memory: one of the same shape overwrites its weights, an adapter is scaled."""

    def __init__(self, plan: PredictionPlan, device: torch.device) -> None:
        self._plan, self._device = plan, device
        self._key: tuple[object, ...] | None = None
        self._model: nn.Module | None = None
        self._adapter: AdapterSweep | None = None
        self._files: dict[str, list[str]] = {}
        self._contents = Contents()
        self._lanes: list[_Lane] = []
        """Of the model in memory; they serve again for the same labels and rows."""
        self._asked: tuple[tuple[str, ...], Share] | None = None

    @override
    def answer(self, item: int, on_rows: Callable[[int], None] = lambda _: None, share: Share = EVERYTHING) -> Outcomes:
        candidate = self._plan.candidates[item]
        lanes = self._lanes_of(self._at(candidate), item, share)
        holds, next_holds = self._holds(candidate), self._next_holds(item)

        def asking(lane: _Lane) -> Ask[Outcomes]:
            return lambda tell: predict_split(
                lane.model,
                lane.sweep.split,
                candidate.end.labels,
                lambda: load_tokenizer(candidate.end.folder),
                tell,
                self._plan.max_new_tokens,
                lane.sweep.batches(lane.model, holds, next_holds),
                num_beams=self._plan.num_beams,
                samples=self._plan.samples,
            )

        said = side_by_side([asking(lane) for lane in lanes], on_rows)
        if len(said) == 1:
            return said[0]
        return joined(said).take(order_of(lanes[0].sweep.split, [lane.sweep.share for lane in lanes]))

    def _lanes_of(self, model: nn.Module, item: int, share: Share) -> list[_Lane]:
        """Return what asks the model about a share of the rows."""
        labels = self._plan.candidates[item].end.labels
        if not self._lanes or self._asked != (labels, share):
            split = self._plan.rows(item)
            count = self._count(split, share)
            room = self._plan.compute.evaluation_memory_mb * 1_000_000 // count
            models = [model, *(lane_of(model) for _ in range(count - 1))]
            parts = share.parts(count)
            self._lanes = [_Lane(one, Sweep(split, part, room)) for one, part in zip(models, parts, strict=True)]
            self._asked = labels, share
        return self._lanes

    def _count(self, split: PreparedSplit, share: Share) -> int:
        """Return in how many lanes the model is asked: several where batches are small, and the model is in one piece.

        Of each token of a vocabulary so much is said that one batch has work for all cores, and fills the memory.
        """
        kind = KINDS[self._plan.data.kind]
        whole = self._key is not None and self._key[0] == "dense"
        if self._device.type != "cpu" or not whole or kind.language or kind.vocabulary:
            return 1
        return max(1, min(MOST, torch.get_num_threads(), len(batches_of(split, share))))

    def _at(self, candidate: Candidate) -> nn.Module:
        """Return the model at a candidate's point; never two are in memory."""
        key = _in_memory_as(candidate)
        made = self._model is None or self._key != key
        if self._model is None or made:
            self._model, self._adapter, self._lanes = None, None, []
            self._model, self._adapter = self._load(candidate)
            self._files = _names_in_files(self._model) if key[0] == "dense" else {}
            self._key = key
        if self._adapter is not None and candidate.merge:
            return self._adapter.at(candidate.merge)
        if key[0] == "dense" and (candidate.mixes or not made):
            mix_into(self._model, candidate)
        return self._model

    def _load(self, candidate: Candidate) -> tuple[nn.Module, AdapterSweep | None]:
        kind = self._plan.data.kind
        if walks_by_scaling(candidate):
            adapter = AdapterSweep(candidate, kind)
            return adapter.model.to(self._device), adapter
        if candidate.end.form == "adapter":
            return model_of(candidate, kind).to(self._device), None
        return load(_described_by(candidate), kind).to(self._device), None

    def _holds(self, candidate: Candidate) -> Holds | None:
        """Return what the tensors of the model in memory hold for a candidate; None where that is not known."""
        if self._plan.max_new_tokens:  # who writes asks the model token by token
            return None
        if self._adapter is not None:
            moved, merge = self._adapter.moved, candidate.merge
            return lambda name: merge.model_dump_json() if merge and name in moved else None
        if self._key is None or self._key[0] != "dense":
            return None

        def holds(name: str) -> Hashable:
            at_hand = [saved for saved in self._files.get(name, []) if self._contents.has(candidate, saved)]
            return self._contents.of(candidate, at_hand[0]) if at_hand else (candidate.digest(), name)

        return holds

    def _next_holds(self, item: int) -> Holds | None:
        """Return the same of who is asked next, if by the same model."""
        files = self._plan.files
        following = next((i for i in range(item + 1, len(files)) if not Path(files[i]).exists()), None)
        if following is None or _in_memory_as(self._plan.candidates[following]) != self._key:
            return None
        return self._holds(self._plan.candidates[following])


def _in_memory_as(candidate: Candidate) -> tuple[object, ...]:
    """Return what the model in memory must be made of to serve for a candidate: equal answers are the same module."""
    ends = tuple(part.digest() for part in (candidate.start, candidate.end))
    if walks_by_scaling(candidate):
        return "scaled", *ends
    if candidate.end.form == "adapter":
        return "alone", candidate.digest()
    described = _described_by(candidate)
    config = json.dumps(read_config(described.folder), sort_keys=True)
    return "dense", config, described.tokenizer, described.labels


def _described_by(candidate: Candidate) -> Checkpoint:
    """Return the checkpoint whose config and layout a dense candidate has."""
    source = None if candidate.merge is None else candidate.merge.whole_copy()
    return candidate.end if source is None else candidate.parts[source]


def _names_in_files(model: nn.Module) -> dict[str, list[str]]:
    """Return what each tensor of a model's state may be called in its files: tied ones have one name there."""
    state, saved = model.state_dict(), saved_names(model)
    called: dict[tuple[int, torch.Size], list[str]] = {}
    for name, tensor in state.items():
        if name in saved:
            called.setdefault((tensor.data_ptr(), tensor.shape), []).append(saved[name])
    return {name: called.get((tensor.data_ptr(), tensor.shape), []) for name, tensor in state.items()}
