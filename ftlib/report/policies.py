"""What a policy learnt from its own answers: its reward, how far it went for it, and what it may have done instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ftlib.models.checkpoint import Checkpoint
from ftlib.report.content import Figure, Row, Section, Table, texts
from ftlib.report.figures import CHOSEN, SHIFTED, TARGET, canvas, draw_by_step, legend_below, saved
from ftlib.training.curves import FILE, read
from ftlib.training.objectives.policy import MEASURED

_WORDS = {
    "reward": "reward",
    "kl": "KL to the start, nats an answer",
    "entropy": "entropy, nats a token",
    "length": "tokens an answer",
    "ended": "answers that ended by themselves",
    "repeated": "answers that repeat another of their step",
    "no_signal": "prompts whose answers are all worth the same",
}
_MANY = 0.5
"""The share from which answers that repeat, or groups that teach nothing, are spoken of."""
_DRIFT = 1.5
"""The factor from which answers have become longer or shorter."""


def is_policy(checkpoint: Checkpoint) -> bool:
    """Say whether a phase learnt from its own answers."""
    return "last_reward" in checkpoint.facts


def policy_section(checkpoints: Sequence[Checkpoint], folder: Path) -> Section | None:
    """Return what the phases of a run measured at their own answers; None where none wrote any."""
    policies = [one for one in checkpoints if is_policy(one)]
    if not policies:
        return None
    shares = [{name: (_of(one, "first", name), _of(one, "last", name)) for name in MEASURED} for one in policies]
    table = Table(
        columns=["", *(one.phase for one in policies)],
        rows=[
            Row(texts(words, *(f"{of[name][0]:.4g} to {of[name][1]:.4g}" for of in shares)))
            for name, words in _WORDS.items()
        ],
        caption="means over the answers of the first and of the last tenth of the steps",
        numeric=frozenset(range(1, len(policies) + 1)),
    )
    several = len(policies) > 1
    sentences = [
        f"{f'{one.phase}: ' if several else ''}{sentence}"
        for one, measured in zip(policies, shares, strict=True)
        for sentence in warnings(measured)
    ]
    lead = " ".join(["What is worth more was drawn, graded and learnt.", *sentences])
    return Section("policy", "Learning from its own answers", lead, [_figure(policies, folder)], [table])


def warnings(measured: Mapping[str, tuple[float, float]]) -> Iterator[str]:
    """Yield a sentence for each sign that the reward was reached in another way than it was meant."""
    repeated, length, silent = measured["repeated"], measured["length"], measured["no_signal"]
    if repeated[1] >= _MANY and repeated[1] > repeated[0]:
        yield (
            f"In the end {repeated[1]:.0%} of a step's answers repeat another one: it may be that one constant answer "
            "has the highest reward. Read some of what it writes, and give the reward a part that looks at the prompt."
        )
    if length[0] and not 1 / _DRIFT < length[1] / length[0] < _DRIFT:
        yield (
            f"Answers became {'longer' if length[1] > length[0] else 'shorter'}, from {length[0]:.3g} to "
            f"{length[1]:.3g} tokens: see whether the reward pays for length."
        )
    if silent[1] >= _MANY:
        yield (
            f"In the end the answers to {silent[1]:.0%} of the prompts are all worth the same, and teach nothing more: "
            "fewer epochs, or a reward with more degrees, would do."
        )


def _of(checkpoint: Checkpoint, when: str, name: str) -> float:
    return float(checkpoint.facts[f"{when}_{name}"])


def _figure(policies: Sequence[Checkpoint], folder: Path) -> Figure:
    """Draw what was measured of each step, one row per phase."""
    with canvas(9.6, 2.9 * len(policies), len(policies), 3) as (figure, grid):
        for axes, policy in zip(grid, policies, strict=True):
            records = read(policy.path / FILE)
            draw_by_step(axes[0], records, {"reward": TARGET}, f"{policy.phase} · reward")
            validated = [(one["step"], one["validation_reward"]) for one in records if "validation_reward" in one]
            if validated:
                axes[0].plot(*zip(*validated, strict=True), color=CHOSEN, marker="o", markersize=5, label="validation")
            draw_by_step(axes[1], records, {"kl": TARGET}, "KL to the start")
            draw_by_step(axes[2], records, {"repeated": SHIFTED, "no_signal": TARGET}, "repeated, no signal")
            for one in axes:
                one.set_xlabel("step")
                legend_below(one)
        return saved(
            figure,
            folder,
            "policy_curves",
            "By step, thin as measured and thick as a running mean: the reward of the answers that were drawn, and of "
            "one to each validation prompt; how far the policy is from its start, in nats an answer; the share of "
            "answers that repeat another, and of prompts whose answers are all worth the same.",
        )
