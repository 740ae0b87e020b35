"""Two optimisers that the loop, and a checkpoint, take for one."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from typing_extensions import override


class Joint(torch.optim.Optimizer):
    """Steps every part's own parameters; groups and state are the parts' own, one after another."""

    def __init__(self, parts: Sequence[torch.optim.Optimizer]) -> None:
        """Join optimisers of different parameters, none of which has stepped."""
        self._parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share(self.param_groups)

    def _share(self, groups: Sequence[dict[str, Any]]) -> None:
        """Let the parts step by these groups, in which the loop sets the rates, and keep their state in one place."""
        left = iter(groups)
        for part in self._parts:
            part.param_groups = [*itertools.islice(left, len(part.param_groups))]
            part.state = self.state

    @torch.no_grad()
    @override
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do a step of each part."""
        for part in self._parts:
            part.step()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Hand every part its own share: torch's general way would turn a part's bytes into numbers."""
        state, left = defaultdict[Any, Any](dict), iter(state_dict["param_groups"])
        for part in self._parts:
            groups = [*itertools.islice(left, len(part.param_groups))]
            ids = {id for group in groups for id in group["params"]}
            mine = {id: values for id, values in state_dict["state"].items() if id in ids}
            part.state = defaultdict(dict)
            part.load_state_dict({"state": mine, "param_groups": groups})
            state |= part.state
        self.state = state
        self.param_groups = [group for part in self._parts for group in part.param_groups]
        self._share(self.param_groups)


def joint(*parts: torch.optim.Optimizer | None) -> torch.optim.Optimizer:
    """Return the one part that there is, or all as one."""
    given = [part for part in parts if part is not None]
    return given[0] if len(given) == 1 else Joint(given)
