"""What a policy writes, and what that is worth: answers drawn to prompts, graded, and laid out as rows to learn from.

A rollout is a pure function of the seed, the step, the row, the number of the sample and the weights: a run that was
killed in the middle of one draws it again, token by token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import nn

from ftlib.config import BatchKind
from ftlib.data.inputs import INPUT_IDS
from ftlib.data.prepared import SCORE, split_schema
from ftlib.errors import DataError
from ftlib.kinds.collate import Collator
from ftlib.kinds.heads.base import Request
from ftlib.kinds.heads.chats import TurnTargets
from ftlib.kinds.heads.completions import CompletionAnswers
from ftlib.kinds.kind import KINDS
from ftlib.kinds.sampling import ModelSampler, Sample, Sampler
from ftlib.kinds.split import PreparedSplit
from ftlib.training.group import Group, shards_of, unwrap
from ftlib.training.loops.batches import micro_batches
from ftlib.training.loops.modes import answering
from ftlib.training.objectives.policy import GROUP, WORTH, PolicyObjective
from ftlib.training.phase import Phase
from ftlib.training.rewards.base import Answered, RewardModel
from ftlib.training.rewards.grading import graded


@dataclass(frozen=True)
class Rollouts:
    """Answers to prompts, all ranks' together: the first prompt's, then the second's."""

    prompts: Sequence[Int[np.ndarray, " tokens"]]
    """One for each answer."""
    samples: Sequence[Sample]
    worth: Float[np.ndarray, " answers"]
    times: int
    """How many answers each prompt has."""

    def rows(self) -> PreparedSplit:
        """Return them as completions, with what they are worth, and the number of the prompt that they answer."""
        tokens = [[*prompt.tolist(), *one.tokens] for prompt, one in zip(self.prompts, self.samples, strict=True)]
        groups = np.repeat(np.arange(len(self.prompts) // self.times, dtype=np.float64), self.times)
        columns = {WORTH: self.worth.astype(np.float64), GROUP: groups}
        return _completions(tokens, [len(one.tokens) for one in self.samples], columns)

    def measured(self) -> dict[str, float]:
        """Return what the curves say of them."""
        lengths = [len(one.tokens) for one in self.samples]
        groups = self.worth.reshape(-1, self.times)
        return {
            "reward": float(self.worth.mean()),
            "length": float(np.mean(lengths)),
            "ended": float(np.mean([one.ended for one in self.samples])),
            "repeated": 1.0 - len({one.answer for one in self.samples}) / len(self.samples),
            "no_signal": float((groups.max(axis=1) == groups.min(axis=1)).mean()),
        }


def own_sampler(model: nn.Module, group: Group) -> Sampler:
    """Return what draws by this process's model, or by its share of one that is sharded."""
    whole = unwrap(model)
    if shards_of(whole) is None:
        return ModelSampler(whole)
    return ModelSampler(whole, goes_on=lambda left: group.sum(float(left))[0] > 0)


class Writer:
    """Draws answers to a split's prompts and has them graded, on one of the ranks that share the work."""

    def __init__(
        self,
        objective: PolicyObjective,
        tokenizer: Any,
        collate: Collator,
        group: Group,
        judges: Mapping[str, RewardModel],
        *,
        seed: int,
        precision: Literal["fp32", "bf16"],
        at_once: int,
        sampler: Sampler | None = None,
    ) -> None:
        """Take who writes for whom; `at_once` answers are drawn at a time, by the model itself without a `sampler`."""
        self._objective, self._tokenizer, self._collate, self._group = objective, tokenizer, collate, group
        self._judges, self._seed, self._precision, self._at_once = judges, seed, precision, at_once
        self._sampler = sampler
        self._heads: dict[PreparedSplit, CompletionAnswers] = {}

    @torch.no_grad()
    def write(
        self, model: nn.Module, split: PreparedSplit, rows: Int[np.ndarray, " rows"], times: int, *which: int
    ) -> Rollouts:
        """Return so many answers to each row's prompt; `which` says whose they are: a step and a part, by number.

        All ranks call it together. Raises RecipeError, on every rank, for a reward that gives no numbers, and
        ModelError for a prompt that leaves too few of the model's positions.
        """
        objective, group = self._objective, self._group
        heads, asked = self._of(split), split.asked
        assert asked is not None
        own = self._tokenizer.eos_token_id
        ends = heads.ends if own is None else {own, *heads.ends}
        prompts = [prompt.cpu() for prompt in heads.prompts(split.batch(rows, self._collate), rows)]
        draws = self._sampler or own_sampler(model, group)
        drawn: dict[int, Sample] = {}
        autocast = torch.autocast(group.device.type, torch.bfloat16, enabled=self._precision == "bf16")
        pairs = np.arange(len(rows) * times)
        with answering(model), autocast:
            for mine, counts in micro_batches(pairs, group.rank, group.world_size, self._at_once):
                samples = draws(
                    [prompts[pair // times].to(group.device) for pair in mine],
                    seeds=[_seed_of(self._seed, *which, int(rows[pair // times]), int(pair % times)) for pair in mine],
                    max_new_tokens=objective.max_new_tokens,
                    temperature=objective.temperature,
                    ends=ends,
                )
                drawn |= dict(zip(mine.tolist(), samples, strict=True)) if counts else {}
        worth: dict[int, float] = {}
        answered = {
            pair: Answered(
                prompt=asked[int(rows[pair // times])].as_py(),
                answer=self._text(one.answer),
                reference=heads.reference(int(rows[pair // times])),
                ended=one.ended,
            )
            for pair, one in drawn.items()
        }
        group.together(partial(self._grade, answered, worth))
        everybody = group.gather([(pair, one, worth[pair]) for pair, one in drawn.items()])
        return _in_order(everybody, [prompt.numpy() for prompt in prompts], times)

    def _of(self, split: PreparedSplit) -> CompletionAnswers:
        """Return what knows where a split's prompts end, and by which tokens answers do."""
        if split not in self._heads:
            if split.asked is None:
                raise DataError("a reward reads prompts as texts, and the rows hold none; quote them before they train")
            asked = Request(split, (), lambda: self._tokenizer, self._objective.max_new_tokens, 1)
            heads = KINDS[split.kind].head().answers(asked)
            assert isinstance(heads, CompletionAnswers)
            self._heads[split] = heads
        return self._heads[split]

    def _grade(self, answered: Mapping[int, Answered], worth: dict[int, float]) -> None:
        grades = graded(self._objective.reward, [*answered.values()], self._judges)
        worth.update(zip(answered, grades, strict=True))

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _in_order(everybody: Sequence[Any], prompts: Sequence[Int[np.ndarray, " tokens"]], times: int) -> Rollouts:
    of_pair: dict[int, tuple[Sample, float]] = {pair: (one, worth) for of in everybody for pair, one, worth in of}
    order = [of_pair[pair] for pair in range(len(prompts) * times)]
    return Rollouts(
        [prompt for prompt in prompts for _ in range(times)],
        [one for one, _ in order],
        np.array([worth for _, worth in order]),
        times,
    )


def _seed_of(*numbers: int) -> int:
    """Return the seed of one answer."""
    return int(np.random.SeedSequence([*numbers]).generate_state(1, np.uint64)[0])


def stand_ins(
    phase: Phase, train: Sequence[PreparedSplit], validation: Sequence[PreparedSplit]
) -> tuple[list[PreparedSplit], list[PreparedSplit]]:
    """Return what a phase's passes read of its splits; for a policy, answers as long as they may be.

    They stand in for what is not written yet: where memory is counted, the widest batch rehearsed, and where it is
    asked which weights a gradient reaches. What is validated of a policy is what it writes, without such a pass. Where
    principles are still to make pairs of the prompts, those are as long as they may be.
    """
    objective, prompts = phase.objective, max(1, phase.optimizer.batch_size)
    if phase.principles:
        most, kind = phase.principles.max_new_tokens, objective.needs
        train, validation = ([_pairs(split, kind, most, prompts) for split in splits] for splits in (train, validation))
        return train, validation
    if not isinstance(objective, PolicyObjective):
        return [*train], [*validation]
    return [_stand_in(split, objective, prompts) for split in train], []


def _stand_in(split: PreparedSplit, objective: PolicyObjective, prompts: int) -> PreparedSplit:
    """Return the longest prompts of a split, each as often as it is answered, and the longest answers."""
    tokens = list[list[int]]()
    for _, answered in _answered(split, objective.max_new_tokens, prompts):
        tokens += [answered] * objective.group_size
    return _completions(tokens, [objective.max_new_tokens] * len(tokens))


def _pairs(split: PreparedSplit, kind: BatchKind, most: int, prompts: int) -> PreparedSplit:
    """Return the longest prompts of a split, each with two of the longest answers."""
    tokens, targets = list[list[int]](), list[Mapping[str, Any]]()
    for first, answered in _answered(split, most, prompts):
        end = len(answered)
        tokens.append([*answered, *answered])
        targets.append({"places": [first, end, end + first, 2 * end], "chosen": "", "rejected": "", "end": None})
    table = pa.table(
        {
            "row_id": pa.array([str(row) for row in range(len(tokens))], pa.string()),
            INPUT_IDS: pa.array(tokens, pa.list_(pa.int32())),
            "supervised": pa.array([1] * len(tokens), pa.int32()),
            "target": pa.array(targets, split_schema(kind).field("target").type),
        }
    )
    return PreparedSplit(table, kind, KINDS[kind].head().targets(table, (), Path()))


def _answered(split: PreparedSplit, most: int, prompts: int) -> Iterator[tuple[int, list[int]]]:
    """Yield the lengths of the longest prompts of a split, and these with answers of so many tokens."""
    lengths = prompt_lengths(split)
    for row in np.argsort(-lengths, kind="stable")[:prompts].tolist():
        prompt = split.tokens(row)[: lengths[row]].tolist()
        yield len(prompt), [*prompt, *(prompt * most)[:most]]


def prompt_lengths(split: PreparedSplit) -> Int[np.ndarray, " rows"]:
    """Return where each row's answer begins: of a chat, its last one."""
    turns, lengths = split.targets, split.lengths
    if not isinstance(turns, TurnTargets):
        return lengths - split.supervised
    return np.array([turns.prompt_end(row, int(lengths[row])) for row in range(len(split))], np.int64)


def _completions(
    tokens: Sequence[Sequence[int]],
    supervised: Sequence[int],
    columns: Mapping[str, Float[np.ndarray, " rows"]] | None = None,
) -> PreparedSplit:
    """Return rows of prompts and answers in memory."""
    table = pa.table(
        {
            "row_id": pa.array([str(row) for row in range(len(tokens))], pa.string()),
            INPUT_IDS: pa.array(tokens, pa.list_(pa.int32())),
            "supervised": pa.array(supervised, pa.int32()),
            **{SCORE + name: pa.array(values) for name, values in (columns or {}).items()},
        }
    )
    return PreparedSplit(table, PolicyObjective.needs, None)
