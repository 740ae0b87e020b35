"""Answers compared pair by pair: in both orders, each question asked once, with what the counts can say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ftlib.config import Config
from ftlib.evaluation.bootstrap import Resampling
from ftlib.evaluation.judges.base import Cost, JudgeBase, Pair
from ftlib.evaluation.judges.swapping import mirrored, row_scores
from ftlib.evaluation.measured import Estimate


class Compared(Config):
    """Two answerers on the same prompts."""

    rows: int
    wins: int
    """Rows where the first answerer's answer is preferred, in both orders, or in one with a tie in the other."""
    losses: int
    ties: int
    """Rows of a tie, or of verdicts that turn with the order."""
    win_rate: Estimate
    """Wins and half of the ties, as a share of the rows; the interval is of resampled rows."""
    p: float
    """Of no difference, by the exact sign test: wins and losses as coin tosses (ties say nothing)."""
    turned: int
    """Rows whose two verdicts prefer the answer in the same place: the judge's, not the answers' doing."""
    first_place: float
    """Share of the verdicts for an answer that were for the one shown first; 0.5 is a judge without a side."""
    unread: int
    """Replies that said neither."""
    cost: Cost
    """What was spent now; what was asked before costs nothing."""

    def line(self, ours: str, theirs: str) -> str:
        """Say it in a line."""
        low, value, high = self.win_rate.numbers() or (0.0, 0.0, 0.0)
        return (
            f"{ours} against {theirs}: win rate {value:.3f} [{low:.3f}, {high:.3f}], {self.wins} won, "
            f"{self.ties} tied, {self.losses} lost of {self.rows}, sign test p {self.p:.3g}"
        )


def compare(judge: JudgeBase, pairs: Sequence[Pair], resampling: Resampling) -> Compared:
    """Return what a judge makes of pairs whose first answers are one answerer's and whose second are the other's."""
    import numpy as np
    from scipy.stats import binomtest

    scores, both, cost = row_scores(judge, pairs)
    values = np.array(scores)
    drawn = [values[draw].mean(axis=1) for draw in resampling.draws(len(values))] if len(values) else [values]
    wins, losses = int((values > 0.5).sum()), int((values < 0.5).sum())
    said = Counter(one for one, _ in both) + Counter(mirrored(other) for _, other in both if judge.swaps)
    decided = said["first"] + said["second"]
    return Compared(
        rows=len(pairs),
        wins=wins,
        losses=losses,
        ties=len(pairs) - wins - losses,
        win_rate=resampling.interval(float(values.mean()) if len(values) else float("nan"), np.concatenate(drawn)),
        p=float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0,
        turned=sum({a, b} == {"first", "second"} for a, b in both),
        first_place=said["first"] / decided if decided and judge.swaps else 0.5,
        unread=said["unread"],
        cost=cost,
    )
