"""RL's Razor (Shenfeld, Pari & Agrawal 2025, arXiv 2509.04259) on digits: what is forgotten follows KL to the start.

A small net learns letters and, from a few rows, whether digits are even: any even label is right for an even one, and
all right ones are taught alike. A pixel in the corner tells digits from letters, as the paper's task indicator does. It
is then tuned on other digits alone, by labels of three kinds, which are the paper's, and at several rates, with the
points of the alpha line between; and on policy, by REINFORCE with reward 1 for a right parity, which no recipe says of
a classifier. Each is a point: KL(start || it) on digits that none of them saw, and the accuracy on letters that it
lost.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.evidence.digits import digits, letters
from benchmarks.evidence.points import Measured, Point
from benchmarks.evidence.small_net import Bench, answers, as_inputs, net_of, right
from ftlib.merging.candidates import Candidate

if TYPE_CHECKING:
    from jaxtyping import Float

    from benchmarks.evidence.small_net import Images, Labels
    from ftlib.models.checkpoint import Checkpoint

CHOICES = ("fixed", "two", "oracle")
"""Labels of a digit: always 0 or 1; drawn from 0 and 4, or from 1 and 5; drawn as the start would among the right ones,
which is the supervised policy nearest to it."""
_FEW, _TUNED, _CHOOSING = 150, 1000, 247
_LETTERS = 800


@dataclass(frozen=True)
class Task:
    """One seed's rows."""

    images: Images
    labels: Labels
    letters: Images
    letter_labels: Labels

    @property
    def tuned(self) -> slice:
        """Return the digits of the new task."""
        return slice(_FEW, _FEW + _TUNED)

    @property
    def kept(self) -> slice:
        """Return the digits that nothing is trained on; the first of them choose, the rest are reported."""
        return slice(_FEW + _TUNED, None)


@dataclass(frozen=True)
class Seen:
    """One model on the digits and letters that are kept back."""

    series: str
    what: str
    digits: Float[np.ndarray, "rows 10"]
    letters: Float[np.ndarray, "rows 10"]


def measure(seed: int, work: Path, settings: Mapping[str, Any]) -> Measured:
    """Return all points of a seed, and of each way of tuning the end that digits of its own chose."""
    bench, task = Bench(work / "razor" / f"seed-{seed}", seed), _task(seed)
    begun = _start(bench, task, settings)
    start = _seen("start", "", net_of(begun), task)
    ways: dict[str, list[Seen]] = {}
    for choice in CHOICES:
        ways[choice] = list(_supervised(choice, bench, task, begun, settings))
    ways["policy"] = list(_on_policy(bench, task, begun, settings))
    lost = right(start.letters, task.letter_labels[_LETTERS:])
    points = [
        Point(
            series=one.series,
            what=one.what,
            x=divergence(start.digits, one.digits),
            beside={
                "KL(tuned || start)": divergence(one.digits, start.digits),
                "total variation": float(np.abs(one.digits - start.digits).sum(1).mean() / 2),
                "parity": _parity(one, task, choosing=False),
            },
            y=lost - right(one.letters, task.letter_labels[_LETTERS:]),
        )
        for some in ways.values()
        for one in some
    ]
    ends = {way: [one for one in some if one.series != "alpha points"] for way, some in ways.items()}
    chosen = {way: max(some, key=lambda one: _parity(one, task, choosing=True)) for way, some in ends.items()}
    arms = {
        way: {
            "digits/parity": _parity(one, task, choosing=False),
            "letters/accuracy": right(one.letters, task.letter_labels[_LETTERS:]),
        }
        for way, one in {"start": start, **chosen}.items()
    }
    return Measured(arms=arms, points=tuple(points))


def _task(seed: int) -> Task:
    images, labels = digits()
    order = np.random.default_rng(seed).permutation(len(images))
    known, named = letters(130, seed)
    return Task(_marked(images[order], 1.0), labels[order], _marked(known, 0.0), named)


def _marked(images: Images, task: float) -> Images:
    """Return the images with the pixel in their corner lit, or dark; a digit's own is always dark."""
    images = images.copy()
    images[:, 0, 0] = task
    return images


def _start(bench: Bench, task: Task, settings: Mapping[str, Any]) -> Checkpoint:
    """Train the net on letters, and on the parity of a few digits."""
    held = slice(_LETTERS, None)
    known = bench.rows(
        "letters",
        (task.letters[:_LETTERS], task.letter_labels[:_LETTERS]),
        (task.letters[held], task.letter_labels[held]),
    )
    each = np.repeat(np.arange(_FEW), 5)
    few = _digits(bench, task, "few", each, task.labels[each] % 2 + 2 * np.tile(np.arange(5), _FEW))
    return bench.tuned(bench.random_net(), [known, few], settings["start"], mixture=(3.0, 1.0))


def _digits(bench: Bench, task: Task, name: str, rows: slice | Labels, labels: Labels) -> Any:
    """Write digits with these labels to train on, and ones that are kept back, on which nothing is decided here."""
    return bench.rows(name, (task.images[rows], labels), (task.images[task.kept], task.labels[task.kept]))


def _supervised(
    choice: str, bench: Bench, task: Task, begun: Checkpoint, settings: Mapping[str, Any]
) -> Iterator[Seen]:
    """Tune on labels of one kind at each rate; give the ends, and the points of each line."""
    images, labels = task.images[task.tuned], task.labels[task.tuned] % 2
    draws = np.random.default_rng(bench.seed + 1)
    if choice == "two":
        labels = labels + 4 * draws.integers(2, size=len(labels))
    if choice == "oracle":
        allowed = answers(net_of(begun), images) * (np.arange(10) % 2 == labels[:, None])
        shares = (allowed / allowed.sum(1, keepdims=True)).cumsum(1)
        labels = (shares < draws.uniform(size=(len(labels), 1))).sum(1)
    data = _digits(bench, task, choice, task.tuned, labels)
    for rate in settings["rates"]:
        end = bench.tuned(begun, data, {**settings["tune"], "learning_rate": rate})
        yield _seen(f"{choice} labels", f"rate {rate:g}", net_of(end), task)
        for alpha in settings["alphas"]:
            between = net_of(Candidate.between(begun, end, alpha))
            yield _seen("alpha points", f"{choice} labels, rate {rate:g}, alpha {alpha:g}", between, task)


def _on_policy(bench: Bench, task: Task, begun: Checkpoint, settings: Mapping[str, Any]) -> Iterator[Seen]:
    """Tune by REINFORCE: the net's own draws, reward 1 for a right parity, the batch's mean as baseline, no KL term."""
    import torch

    inputs, even = as_inputs(task.images[task.tuned]), torch.from_numpy(task.labels[task.tuned] % 2)
    start = net_of(begun)
    for rate in settings["policy_rates"]:
        net = copy.deepcopy(start).train()
        draw = torch.Generator().manual_seed(bench.seed)
        optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.0)
        for step in range(1, settings["policy_steps"] + 1):
            some = torch.randint(len(inputs), (64,), generator=draw)
            spoken = net(inputs[some]).logits.log_softmax(-1)
            drawn = torch.multinomial(spoken.detach().exp(), 1, generator=draw)[:, 0]
            reward = (drawn % 2 == even[some]).float()
            loss = -((reward - reward.mean()) * spoken.gather(1, drawn[:, None])[:, 0]).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            if step % (settings["policy_steps"] // 3) == 0:
                yield _seen("on policy", f"rate {rate:g}, step {step}", net.eval(), task)
                net.train()


def _seen(series: str, what: str, net: Any, task: Task) -> Seen:
    return Seen(series, what, answers(net, task.images[task.kept]), answers(net, task.letters[_LETTERS:]))


def divergence(of: Float[np.ndarray, "rows 10"], to: Float[np.ndarray, "rows 10"]) -> float:
    """Return the mean over rows of KL(of || to), in nats."""
    floor = np.finfo(np.float64).tiny
    return float((of * (np.log(of + floor) - np.log(to + floor))).sum(1).mean())


def _parity(one: Seen, task: Task, *, choosing: bool) -> float:
    """Return how often the likeliest label is even where the digit is."""
    half = slice(_CHOOSING) if choosing else slice(_CHOOSING, None)
    return float((one.digits[half].argmax(1) % 2 == task.labels[task.kept][half] % 2).mean())
