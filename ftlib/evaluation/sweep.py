"""One split asked of several models in turn: what they have in common is computed once, and kept while it fits.

Candidates of one sweep are asked about the same batches, and where training left a model's first layers as they were,
these layers say the same of a batch for every candidate: their output is kept, and the next candidate goes on from it.
Of a linear probe that is all but the head; of a phase that froze layers, those below the first that trained; of LoRA
in every layer, or of a full fine-tune, it is nothing.

Where a head reads one place of a row, the last layer is computed for it alone: see `first_place`.

No number depends on what is kept or left out. A kept output is what the same kernels gave for the same inputs, and the
model shows on one batch that it goes on from there to the bits that it said in full; else it is asked in full ever
after. Without the other places it shows that on a batch of each shape.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from ftlib.evaluation.first_place import REFUSALS, FirstPlace
from ftlib.evaluation.forward_pass import EVERYTHING, Batches, Share, batches_of
from ftlib.kinds.batch import Batch
from ftlib.kinds.collate import Collator
from ftlib.kinds.kind import KINDS
from ftlib.kinds.split import PreparedSplit

Holds = Callable[[str], Hashable]
"""Says what a candidate's tensor of that name, in the model's state, holds: equal answers are equal bits."""


class Sweep:
    """A share of a split's batches, with what models say of them that are asked one after another."""

    def __init__(self, split: PreparedSplit, share: Share = EVERYTHING, room: int = 0) -> None:
        """Keep at most `room` bytes: batches, and what common first layers say of them."""
        self.split, self.share = split, share
        self._rows = batches_of(split, share)
        self._room = room
        self._collate: Collator | None = None
        self._batches: dict[int, Batch] = {}
        self._model: nn.Module | None = None
        self._chain: Chain | None = None
        self._first_place: FirstPlace | None = None
        self._outputs: _Outputs | None = None

    def batches(self, model: nn.Module, holds: Holds | None = None, next_holds: Holds | None = None) -> Batches:
        """Yield each batch with its rows; while it is open, the model, in eval mode, may be asked about it.

        `holds` says what the model's tensors hold now, `next_holds` what they will when the same model is asked next,
        where that is known. Without the first the model is asked in full.
        """
        self._settle(model)
        if not self._goes_on(holds):
            self._begin(model, holds, next_holds)
        for i, rows in enumerate(self._rows):
            yield rows, self._open(model, i)

    def _settle(self, model: nn.Module) -> None:
        """Forget what was of another model."""
        if (collate := Collator.of(model)) != self._collate:
            self._room += sum(map(_bytes_of_batch, self._batches.values()))
            self._batches.clear()
            self._collate = collate
        if model is not self._model:
            self._forget()
            self._model, self._chain, self._first_place = model, None, None

    def _forget(self) -> None:
        if self._outputs is not None:
            self._room += sum(map(_bytes, self._outputs.of.values()))
        self._outputs = None

    def _goes_on(self, holds: Holds | None) -> bool:
        """Say whether a model whose tensors hold this can go on from what was kept of the one before."""
        kept = self._outputs
        if kept is None or holds is None or self._chain is None:
            return False
        return self._chain.common(kept.holds, holds) >= len(kept.blocks)

    def _begin(self, model: nn.Module, holds: Holds | None, next_holds: Holds | None) -> None:
        """Find out which blocks whoever is asked next has in common with this model: what they say will be kept."""
        self._forget()
        if holds is None or next_holds is None or not self._room or not self._rows:
            return
        if self._chain is None:
            self._chain, self._first_place = self._looked_at(model)
        if depth := self._chain.common(holds, next_holds):
            self._outputs = _Outputs(holds, self._chain.blocks[:depth])

    @torch.inference_mode()
    def _looked_at(self, model: nn.Module) -> tuple[Chain, FirstPlace | None]:
        """Find out on one row, the longest, how a model is made."""
        assert self._collate is not None
        kind, inputs = KINDS[self.split.kind], self.split.batch(self._rows[0][:1], self._collate).inputs
        chain = Chain.of(model, lambda: model(**inputs))
        if not kind.reads_one_place:
            return chain, None
        return chain, FirstPlace.of(chain.blocks, lambda: kind.head().logits(model(**inputs)))

    @contextmanager
    def _open(self, model: nn.Module, i: int) -> Generator[Batch]:
        batch, kept, first_place = self._batch(i), self._outputs, self._first_place
        with ExitStack() as ways:
            if first_place is not None and first_place.serves(batch):
                ways.enter_context(first_place.alone())
            if kept is not None and i in kept.of:
                ways.enter_context(_going_on(kept.blocks, kept.of[i]))
            elif kept is not None or (first_place is not None and not first_place.knows(batch)):
                ways.enter_context(self._learning(model, i, batch))
            yield batch

    @contextmanager
    def _learning(self, model: nn.Module, i: int, batch: Batch) -> Generator[None]:
        """Hear what a model says of a batch on its way, for whoever is asked next."""
        kept, first_place = self._outputs, self._first_place
        first_place = None if first_place is None or first_place.knows(batch) else first_place
        with ExitStack() as ears:
            heard = ears.enter_context(_hearing(kept.blocks[-1])) if kept is not None else []
            before = ears.enter_context(_hearing(first_place.before[-1])) if first_place is not None else []
            asked = ears.enter_context(_asking(model))
            yield
        # Heard more often, it was asked about parts of the batch.
        if first_place is not None:
            whole = len(before) == len(asked) == 1
            first_place.learn(batch, whole and self._same_at_one_place(model, first_place, before[0], asked[0]))
        if kept is not None and len(heard) == len(asked) == 1 and (size := _bytes(heard[0])) <= self._room:
            kept.of[i] = heard[0]
            self._room -= size
            self._show(model, kept, i, asked[0])

    def _same_at_one_place(self, model: nn.Module, first_place: FirstPlace, before: Any, asked: _Asked) -> bool:
        """Ask the last block again, for one place, and say whether the model comes to the bits that it came to."""
        logits = KINDS[self.split.kind].head().logits
        with suppress(*REFUSALS), _going_on(first_place.before, before), first_place.alone():
            return torch.equal(logits(model(*asked.given, **asked.named)), logits(asked.answer))
        return False

    def _show(self, model: nn.Module, kept: _Outputs, i: int, asked: _Asked) -> None:
        """Have the model show, once, that going on from what it said comes to the bits that it came to in full."""
        if kept.shown:
            return
        logits = KINDS[self.split.kind].head().logits
        with _going_on(kept.blocks, kept.of[i]):
            again = model(*asked.given, **asked.named)
        kept.shown = torch.equal(logits(again), logits(asked.answer))
        if not kept.shown:
            self._forget()
            self._chain = NO_CHAIN

    def _batch(self, i: int) -> Batch:
        batch = self._batches.get(i)
        if batch is None:
            assert self._collate is not None
            batch = self.split.batch(self._rows[i], self._collate)
            if (size := _bytes_of_batch(batch)) <= self._room:
                self._batches[i] = batch
                self._room -= size
        return batch


@dataclass(frozen=True)
class Chain:
    """A model's blocks in the order in which they run, each once and one after the other, and what each of them reads.

    Whatever may run before the last block has ended counts as read by the first.
    """

    blocks: tuple[nn.Module, ...]
    reads: tuple[frozenset[str], ...]
    """Names in the model's state, block by block."""

    @classmethod
    def of(cls, model: nn.Module, ask: Callable[[], object]) -> Chain:
        """Find the longest chain, by its parameters, while `ask` runs the model once; it may have no block."""
        calls = _calls(model, ask)
        chains = [
            list(blocks)
            for blocks in model.modules()
            if isinstance(blocks, nn.ModuleList) and _one_after_the_other(blocks, calls)
        ]
        if not chains:
            return NO_CHAIN
        blocks = max(chains, key=lambda chain: sum(p.numel() for block in chain for p in block.parameters()))
        block_of = {module: i for i, block in enumerate(blocks) for module in block.modules()}
        ((_, end),) = calls[blocks[-1]]
        reads: list[set[str]] = [set() for _ in blocks]
        for name in model.state_dict():
            owner = model.get_submodule(name.rpartition(".")[0])
            # What is never called may be read by others at any time.
            if owner in block_of or not calls.get(owner) or calls[owner][0][0] < end:
                reads[block_of.get(owner, 0)].add(name)
        return cls(tuple(blocks), tuple(map(frozenset, reads)))

    def common(self, one: Holds, other: Holds) -> int:
        """Return how many of the first blocks read the same of both."""
        for i, names in enumerate(self.reads):
            if any(one(name) != other(name) for name in sorted(names)):
                return i
        return len(self.blocks)


NO_CHAIN = Chain((), ())


@dataclass
class _Outputs:
    """What a model's first blocks say of batches, for whoever holds the same in them."""

    holds: Holds
    blocks: tuple[nn.Module, ...]
    of: dict[int, Any] = field(default_factory=dict[int, Any])
    """By the batch's place."""
    shown: bool = False
    """Whether a model has shown that it can go on from there."""


@dataclass(frozen=True)
class _Asked:
    """One call of a model."""

    given: tuple[Any, ...]
    named: Mapping[str, Any]
    answer: Any


_Calls = Mapping[nn.Module, Sequence[tuple[int, int]]]
"""When each module's calls began and ended."""


def _calls(model: nn.Module, ask: Callable[[], object]) -> _Calls:
    """Return the calls of every module while `ask` runs the model."""
    clock, open_since = iter(range(1 << 62)), dict[nn.Module, int]()
    calls: dict[nn.Module, list[tuple[int, int]]] = {}

    def begin(module: nn.Module, _: object) -> None:
        open_since[module] = next(clock)

    def end(module: nn.Module, _: object, __: object) -> None:
        calls.setdefault(module, []).append((open_since[module], next(clock)))

    hooks = [
        hook
        for module in model.modules()
        for hook in (module.register_forward_pre_hook(begin), module.register_forward_hook(end))
    ]
    try:
        ask()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _one_after_the_other(blocks: nn.ModuleList, calls: _Calls) -> bool:
    calls_of_blocks = [calls.get(block, ()) for block in blocks]
    return (
        bool(calls_of_blocks)
        and all(len(each) == 1 for each in calls_of_blocks)
        and all(one[0][1] < other[0][0] for one, other in pairwise(calls_of_blocks))
    )


@contextmanager
def _hearing(block: nn.Module) -> Generator[list[Any]]:
    """Give a list of what a block says while it is heard: copies, since later blocks may write over it."""
    heard: list[Any] = []
    hook = block.register_forward_hook(lambda _, __, output: heard.append(_copied(output)))
    try:
        yield heard
    finally:
        hook.remove()


@contextmanager
def _asking(model: nn.Module) -> Generator[list[_Asked]]:
    """Give a list of a model's calls."""
    asked: list[_Asked] = []

    def note(_: object, given: tuple[Any, ...], named: dict[str, Any], answer: Any) -> None:
        asked.append(_Asked(given, named, answer))

    hook = model.register_forward_hook(note, with_kwargs=True)
    try:
        yield asked
    finally:
        hook.remove()


@contextmanager
def _going_on(blocks: Sequence[nn.Module], output: Any) -> Generator[None]:
    """Have a model's first blocks say what the last of them said, and compute nothing."""
    own = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = lambda *_, **__: _copied(output)
    try:
        yield
    finally:
        for block, forward in zip(blocks, own, strict=True):
            if forward is None:
                del block.forward
            else:
                block.forward = forward


def _copied(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.clone()
    if type(output) in (tuple, list):
        parts = cast("Sequence[Any]", output)
        return type(output)(map(_copied, parts))
    return output


def _bytes(output: Any) -> int:
    """Return what it takes in memory: more than there is where `_copied` copies no such thing."""
    if isinstance(output, Tensor):
        return output.nbytes
    if type(output) in (tuple, list):
        return sum(map(_bytes, cast("Sequence[Any]", output)))
    return 0 if output is None else sys.maxsize


def _bytes_of_batch(batch: Batch) -> int:
    tensors = (*batch.inputs.values(), batch.supervised, batch.targets, *batch.columns.values())
    return sum(map(_bytes, tensors))
