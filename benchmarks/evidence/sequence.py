"""Five tasks one after another: the digits, with their pixels in another order for each (Kirkpatrick et al. 2017).

Each way of keeping what was learnt is a phase of the product after another. `by_hand` is EWC in plain torch, from the
paper's formula and no code of the product's: the two must agree in direction and about in size.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evidence.digits import digits, permuted
from benchmarks.evidence.points import Measured
from benchmarks.evidence.small_net import Bench, answers, as_inputs, net_of, right

if TYPE_CHECKING:
    from jaxtyping import Int

    from ftlib.data.datasets import PreparedDataset

_TRAINED, _HELD = 900, 300
"""Rows of each task to train on, and of those after them to choose settings on; the rest are reported."""


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return each way's mean accuracy over all tasks behind the last one, on test rows.

    With `choosing` the accuracy is that of the validation rows, by which settings are chosen, on seeds of their own.
    """
    bench, (images, labels) = Bench(work / "sequence" / f"seed-{seed}", seed), digits()
    order = np.random.default_rng(seed).permutation(len(images))
    images, labels = images[order], labels[order]
    asked = slice(_TRAINED, _TRAINED + _HELD) if settings.get("choosing") else slice(_TRAINED + _HELD, None)
    tasks = [permuted(images, task) for task in range(settings["tasks"])]
    parts = [
        bench.rows(f"task-{at}", (one[:_TRAINED], labels[:_TRAINED]), (one[_TRAINED:], labels[_TRAINED:]))
        for at, one in enumerate(tasks)
    ]
    arms: dict[str, dict[str, float]] = {}
    for way, told in settings["ways"].items():
        ended = (
            _by_hand(bench, tasks, labels, told, settings)
            if told.get("by_hand")
            else _kept(bench, parts, told, settings)
        )
        after = [right(answers(ended, one[asked]), labels[asked]) for one in tasks]
        arms[way] = {"digits/accuracy": float(np.mean(after)), "first/accuracy": after[0], "last/accuracy": after[-1]}
    return Measured(arms=arms)


def _kept(bench: Bench, parts: list[PreparedDataset], told: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """Train task after task, from the second on by a penalty or with earlier rows among the new ones."""
    at = bench.random_net()
    for number, part in enumerate(parts):
        earlier = parts[:number]
        if not earlier:
            at = bench.tuned(at, part, settings["optimizer"])
        elif replayed := told.get("replay"):
            weights = (1 - replayed, *[replayed / number] * number)
            at = bench.tuned(at, [part, *earlier], settings["optimizer"], mixture=weights)
        else:
            at = bench.tuned(at, part, settings["optimizer"], keeping=earlier, penalty=told.get("penalty"))
    return net_of(at)


def _by_hand(
    bench: Bench,
    tasks: list[Any],
    labels: Int[np.ndarray, " rows"],
    told: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Any:
    """Train task after task with EWC, written from the paper: F anew of every earlier task where a task starts."""
    import torch
    from torch.nn.functional import cross_entropy

    net, gold = net_of(bench.random_net()), torch.from_numpy(labels[:_TRAINED])
    draw = torch.Generator().manual_seed(bench.seed)
    told_optimizer, rows = settings["optimizer"], [as_inputs(one[:_TRAINED]) for one in tasks]
    per_epoch = -(-_TRAINED // told_optimizer["batch_size"])
    for number, inputs in enumerate(rows):
        anchor = [p.detach().clone() for p in net.parameters()]
        importance = [torch.zeros_like(p) for p in net.parameters()]
        for earlier in rows[:number]:
            some = earlier[torch.randperm(_TRAINED, generator=draw)[: told["rows"]]]
            for one in some:  # a row at a time: the mean of squares is not the square of the mean
                spoken = net(one[None]).logits.log_softmax(-1)[0]
                drawn = int(torch.multinomial(spoken.detach().exp(), 1, generator=draw))
                gradients: Any = torch.autograd.grad(spoken[drawn], list(net.parameters()), allow_unused=True)
                for total, gradient in zip(importance, gradients, strict=True):
                    total += 0 if gradient is None else gradient.square() / len(some)
        optimizer = torch.optim.AdamW(net.parameters(), lr=told_optimizer["learning_rate"], weight_decay=0.0)
        for _ in range(int(told_optimizer["epochs"])):
            for batch in torch.randperm(_TRAINED, generator=draw).chunk(per_epoch):
                loss = cross_entropy(net(inputs[batch]).logits, gold[batch])
                for p, was, weighs in zip(net.parameters(), anchor, importance, strict=True):
                    loss = loss + told["strength"] / 2 * (weighs * (p - was).square()).sum()
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
                optimizer.step()
    return net
