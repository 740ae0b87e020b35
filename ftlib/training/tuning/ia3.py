"""(IA)3: factors of a model's inner activations."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import model_validator
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.training.tuning.by_peft import MergedOrKept

if TYPE_CHECKING:
    from torch import nn


class IA3(MergedOrKept):
    """W = diag(l) W0, with one factor l for each output of a layer (Liu et al. 2022, arXiv 2205.05638), by peft.

    In the layers of `feedforward` there is one for each input instead: W = W0 diag(l). All begin at 1, so the model
    begins as it is; the head is trained in full. The line from W0 is walked by l itself:
    (1 - alpha) W0 + alpha diag(l) W0 = diag(1 + alpha (l - 1)) W0.
    """

    kind: Literal["ia3"] = "ia3"
    targets: tuple[str, ...] | None = None
    """Module name endings; null: the keys, the values and the second layer of feed-forward blocks, where peft knows
    what the architecture calls them."""
    feedforward: tuple[str, ...] | None = None
    """Those of `targets` whose inputs are scaled, and not their outputs; named with `targets` or not at all."""

    makes: ClassVar[str] = "IA3"

    @model_validator(mode="after")
    def _check_pair(self) -> IA3:
        if (self.targets is None) != (self.feedforward is None):
            raise ValueError("targets and feedforward are named together, or both left to peft")
        if stray := sorted({*(self.feedforward or ())} - {*(self.targets or ())}):
            raise ValueError(f"feedforward names {', '.join(stray)}, which targets does not; it must be a part of them")
        if self.targets is not None and not self.targets:
            raise ValueError("targets is empty; name modules, or leave it out")
        return self

    @override
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config."""
        from peft import IA3Config

        named = (None if names is None else list(names) for names in (self.targets, self.feedforward))
        targets, feedforward = named
        return IA3Config(
            task_type=KINDS[kind].task_type,
            target_modules=targets,
            feedforward_modules=feedforward,
            modules_to_save=self.whole_modules(kind, head),
        )

    @override
    def misfit(self, reason: str) -> RecipeError:
        if self.targets is None:
            return RecipeError(
                f"tuning.targets: peft has no modules of its own for (IA)3 in this model ({reason}); name both "
                "targets and feedforward"
            )
        return RecipeError(
            f"tuning.targets: {list(self.targets)} fit no module of this model: {reason}; name modules it has"
        )
