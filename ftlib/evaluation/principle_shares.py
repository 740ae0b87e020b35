"""How many answers keep each principle: by its checker, or else by what a critic says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlib.data.prompts import Prompt
from ftlib.evaluation.principle_facts import Kept
from ftlib.evaluation.revisions import Drafted
from ftlib.training.rewards import Reward
from ftlib.training.rewards.base import Answered
from ftlib.training.rewards.grading import graded

_KEEPS = 1.0
"""The reward from which on a checker says that an answer keeps a principle."""


def drafts_keep(
    drafted: Sequence[Drafted], prompts: Sequence[Prompt], number: int, checkers: Mapping[int, Reward]
) -> list[bool | None]:
    """Return whether each draft keeps a principle; None where the critic says neither.

    Raises RecipeError for a checker that fails.
    """
    answers = [(prompt, one.draft, one.ended) for prompt, one in zip(prompts, drafted, strict=True)]
    return _keep(answers, [one.judged[number].kept for one in drafted], number, checkers)


def revisions_keep(
    drafted: Sequence[Drafted], prompts: Sequence[Prompt], number: int, checkers: Mapping[int, Reward]
) -> list[bool | None]:
    """Return the same of those revisions that differ from their drafts."""
    revised = [
        (prompt, one.judged[number])
        for prompt, one in zip(prompts, drafted, strict=True)
        if one.judged[number].outcome == "revised"
    ]
    answers = [(prompt, judged.revision or "", True) for prompt, judged in revised]
    return _keep(answers, [judged.revision_kept for _, judged in revised], number, checkers)


def counted_kept(keep: Sequence[bool | None]) -> Kept:
    """Return how many of them do."""
    return Kept(answers=len(keep), kept=sum(one is True for one in keep), unclear=sum(one is None for one in keep))


def _keep(
    answers: Sequence[tuple[Prompt, str, bool]],
    said: Sequence[bool | None],
    number: int,
    checkers: Mapping[int, Reward],
) -> list[bool | None]:
    if (checker := checkers.get(number + 1)) is None:
        return [*said]
    answered = [Answered(prompt.text, text, prompt.reference, ended) for prompt, text, ended in answers]
    return [grade >= _KEEPS for grade in graded(checker, answered, {})]
