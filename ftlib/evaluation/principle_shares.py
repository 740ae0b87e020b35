"""How many answers keep each principle: by its checker, or else by what a critic says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlib.evaluation.principle_facts import Kept
from ftlib.evaluation.revision_prompts import Prompt
from ftlib.evaluation.revisions import Drafted
from ftlib.training.rewards import Reward
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.grading import graded

_KEEPS = 1.0
"""The reward from which on a checker says that an answer keeps a principle."""


def kept_drafts(
    drafted: Sequence[Drafted], prompts: Sequence[Prompt], number: int, checkers: Mapping[int, Reward]
) -> Kept:
    """Return how many drafts keep a principle. Raises RecipeError for a checker that fails."""
    answers = [(prompt, one.draft, one.ended) for prompt, one in zip(prompts, drafted, strict=True)]
    return _kept(answers, [one.judged[number].kept for one in drafted], number, checkers)


def kept_revisions(
    drafted: Sequence[Drafted], prompts: Sequence[Prompt], number: int, checkers: Mapping[int, Reward]
) -> Kept:
    """Return how many of the revisions that differ from their drafts keep it."""
    revised = [
        (prompt, one.judged[number])
        for prompt, one in zip(prompts, drafted, strict=True)
        if one.judged[number].outcome == "revised"
    ]
    answers = [(prompt, judged.revision or "", True) for prompt, judged in revised]
    return _kept(answers, [judged.revision_kept for _, judged in revised], number, checkers)


def _kept(
    answers: Sequence[tuple[Prompt, str, bool]],
    said: Sequence[bool | None],
    number: int,
    checkers: Mapping[int, Reward],
) -> Kept:
    if (checker := checkers.get(number + 1)) is None:
        return Kept(answers=len(said), kept=sum(one is True for one in said), unclear=sum(one is None for one in said))
    answered = [Answered(prompt.turns[-1]["content"], text, prompt.reference, ended) for prompt, text, ended in answers]
    return Kept(answers=len(answers), kept=sum(grade >= _KEEPS for grade in graded(checker, answered, {})))
