"""What became of both answers while a model learnt which of them is preferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean

from ftlib.models.checkpoint import Checkpoint
from ftlib.report.content import Figure, Row, Section, Table, texts
from ftlib.report.figures import SHIFTED, TARGET, canvas, draw_by_step, legend_below, saved
from ftlib.training.curves import FILE, read

_REWARDS = {
    "chosen_reward": ("reward of the chosen answers", TARGET),
    "rejected_reward": ("reward of the rejected ones", SHIFTED),
    "wanted_reward": ("reward of the answers that were wanted", TARGET),
    "unwanted_reward": ("reward of those that were not", SHIFTED),
    "margin_per_token": ("nats a token by which the chosen are ahead", TARGET),
    "pair_margin": ("score by which the better texts are ahead", TARGET),
}
_SHARES = {
    "reward_accuracy": "pairs whose chosen answer gained more",
    "preference_accuracy": "pairs whose chosen answer is likelier, per token",
    "pair_accuracy": "pairs whose better text scores higher",
}
_WORDS = {**{name: words for name, (words, _) in _REWARDS.items()}, **_SHARES, "z0": "z0, nats an answer"}

Measured = Mapping[str, tuple[float, float]]
"""By name, the mean over the first and over the last tenth of a phase's steps."""


def preference_section(checkpoints: Sequence[Checkpoint], folder: Path) -> Section | None:
    """Return what the phases of a run measured of both sides of a preference; None where none learnt any."""
    curves = {one.phase: read(one.path / FILE) for one in checkpoints}
    phases = {phase: records for phase, records in curves.items() if any({*_WORDS} & {*one} for one in records)}
    if not phases:
        return None
    ends = {phase: _ends(records) for phase, records in phases.items()}
    told = [name for name in _WORDS if any(name in of for of in ends.values())]
    table = Table(
        columns=["", *phases],
        rows=[Row(texts(_WORDS[name], *(_range(of.get(name)) for of in ends.values()))) for name in told],
        caption="means over the first and over the last tenth of the steps; rewards in nats, at a beta of 1",
        numeric=frozenset(range(1, len(phases) + 1)),
    )
    several = len(phases) > 1
    sentences = [
        f"{f'{phase}: ' if several else ''}{sentence}" for phase, of in ends.items() for sentence in warnings(of)
    ]
    lead = " ".join(["What is preferred was learnt from both sides of it.", *sentences])
    return Section("preferred", "Learning what is preferred", lead, [_figure(phases, folder)], [table])


def warnings(measured: Measured) -> Iterator[str]:
    """Yield a sentence for each sign that the loss fell in another way than it was meant."""
    for name, answers in (("chosen_reward", "chosen answers"), ("wanted_reward", "answers that were wanted")):
        if name in measured and measured[name][1] < min(0.0, measured[name][0]):
            yield (
                f"In the end the {answers} are less likely than before the phase: the loss fell because the others "
                "became still less likely. Look at what it writes; a smaller learning rate, a larger beta or fewer "
                "epochs, or a phase that learns the answers first, keep them likely."
            )
    if measured.get("reward_accuracy", (0.0, 0.0))[1] >= 1.0:
        yield "In the end every pair of the training rows is in order, and little is left to learn from them."


def _ends(records: Sequence[Mapping[str, float]]) -> Measured:
    found: dict[str, tuple[float, float]] = {}
    for name in _WORDS:
        series = [float(one[name]) for one in records if name in one]
        tenth = max(1, len(series) // 10)
        if series:
            found[name] = fmean(series[:tenth]), fmean(series[-tenth:])
    return found


def _range(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def _figure(phases: Mapping[str, Sequence[Mapping[str, float]]], folder: Path) -> Figure:
    """Draw rewards and the share in order, one row per phase."""
    coloured = {name: colour for name, (_, colour) in _REWARDS.items()}
    with canvas(9.6, 3.1 * len(phases), len(phases), 2) as (figure, grid):
        for axes, (phase, records) in zip(grid, phases.items(), strict=True):
            draw_by_step(axes[0], records, coloured, f"{phase} · rewards")
            draw_by_step(axes[1], records, dict.fromkeys(_SHARES, TARGET), "share of pairs in order")
            axes[0].axhline(0.0, color="0.6", linewidth=0.8)
            has_pairs = any({*_SHARES} & {*one} for one in records)
            axes[1].set_visible(has_pairs)
            for one in axes if has_pairs else axes[:1]:
                one.set_xlabel("step")
                legend_below(one)
        return saved(
            figure,
            folder,
            "preference_curves",
            "By step, thin as measured and thick as a running mean: what both sides are worth to the model, and the "
            "share of pairs that it has in order.",
        )
