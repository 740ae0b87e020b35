"""The one way to ask a reward: numbers that can be learnt from, or one line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ftlib.errors import ReglageError, first_line
from ftlib.training.rewards.base import Answered, RewardBase, RewardModel, checked, refused
from ftlib.training.rewards.process import grade_apart


def graded(reward: RewardBase, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
    """Return a reward's number for each answer.

    Raises RecipeError, in one line that names the reward, if it raises, runs longer than its time limit, or returns
    anything but a finite number for each answer.
    """
    if not answered:
        return []
    try:
        if reward.bounded:
            grades: object = grade_apart(reward, answered)
        else:
            grades = reward.grade(answered, models)
    except ReglageError:
        raise
    except Exception as error:
        raise refused(reward, f"raised {type(error).__name__}: {first_line(error)}") from error
    return checked(reward, grades, len(answered))
