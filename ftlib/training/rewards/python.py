"""What a function of an installed package says."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, cast

from pydantic import Field

from ftlib.errors import first_line
from ftlib.training.rewards.base import Answered, Bounded, RewardModel


class Python(Bounded):
    """What a function of an installed package returns: `def polite(answered: Sequence[Answered]) -> list[float]`.

    It runs in a process of its own, without a model, on every machine that trains. Code never comes from a recipe.
    """

    kind: Literal["python"] = "python"
    function: str = Field(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*$")
    """Where it is, as `package.module:name`; the package must be installed wherever rows are graded."""
    version: str = ""
    """Any word for what the function does now: another one is another reward, and what it graded is graded again."""

    @property
    def called(self) -> str:
        """Return the kind, and the function."""
        return f"python {self.function}"

    def misfits(self) -> Sequence[str]:
        """Return why there is no such function here, in at most one line. It imports the module."""
        try:
            self._function()
        except ImportError as error:
            return (f"{self.function}: {first_line(error)}; install the package that has it",)
        except (Exception, SystemExit) as error:
            return (f"{self.function}: {type(error).__name__}: {first_line(error)}; correct the name or the module",)
        return ()

    def grade(self, answered: Sequence[Answered], models: Mapping[str, RewardModel]) -> list[float]:
        """Return what the function returns."""
        del models
        return self._function()(answered)

    def _function(self) -> Callable[[Sequence[Answered]], list[float]]:
        module, _, name = self.function.partition(":")
        function: Any = getattr(importlib.import_module(module), name)
        if not callable(function):
            raise TypeError(f"{name} is no function")
        return cast("Callable[[Sequence[Answered]], list[float]]", function)
