"""Averages of several fine-tunes of one start."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from ftlib.merging.candidates import Candidate
from ftlib.merging.interpolation.ends import Ends, WithSiblings
from ftlib.merging.methods import Average


class Soup(WithSiblings):
    """Model soups (Wortsman et al. 2022, arXiv 2203.05482).

    uniform  the mean of all fine-tunes
    greedy   from the best by `select.by` on, each next one stays in the mean if the mean does not get worse
    """

    kind: Literal["soup"] = "soup"
    order: Literal["uniform", "greedy"] = "uniform"
    """Which fine-tunes are averaged; `Soup` says what each word means."""

    @property
    @override
    def adaptive(self) -> bool:
        return self.order == "greedy"

    @property
    @override
    def adds_up(self) -> bool:
        return True

    @override
    def points(self, ends: Ends) -> tuple[Candidate, ...]:
        """Return theta0, every fine-tune and the soups so far, theta1 last."""
        start, end, siblings, scores = ends.start, ends.end, ends.siblings, ends.scores
        tuned = (end, *siblings)
        alone = [Candidate.of(checkpoint) for checkpoint in tuned]

        def soup(ingredients: tuple[int, ...]) -> Candidate:
            name = "soup" if self.order == "uniform" else "soup of " + "+".join(tuned[i].phase for i in ingredients)
            merge = Average(ingredients=tuple(1 + i for i in ingredients))
            return Candidate(name=name, start=start, end=end, siblings=siblings, merge=merge)

        soups: list[Candidate] = []
        if self.order == "uniform":
            soups = [soup(tuple(range(len(tuned))))]
        elif all(candidate.digest() in scores for candidate in alone):
            ranked = sorted(range(len(tuned)), key=lambda i: (-scores[alone[i].digest()].value, i))
            kept, best = (ranked[0],), scores[alone[ranked[0]].digest()].value
            for i in ranked[1:]:
                soups.append(soup((*kept, i)))
                if (score := scores.get(soups[-1].digest())) is None:
                    break
                if score.value >= best:
                    kept, best = (*kept, i), score.value
        return (Candidate.of(start), *alone[1:], *soups, alone[0])

    @override
    def count(self) -> int:
        siblings = len(self.seeds) + len(self.siblings)
        return 2 + siblings + (1 if self.order == "uniform" else siblings)
