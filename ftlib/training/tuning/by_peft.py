"""What tunings have in common whose adapter is peft's: it is put over a model, gone on with, and saved as peft does."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError, first_line
from ftlib.extensions import kind_of
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import prefix_of
from ftlib.models.checkpoint import Form
from ftlib.training.tuning.base import TuningBase

if TYPE_CHECKING:
    from torch import Tensor, nn


GOES_ON = {
    "LORA": "lora",
    "IA3": "ia3",
    "PROMPT_TUNING": "prompt_tuning",
    "P_TUNING": "prompt_tuning, since p_tuning's encoder is not saved",
    "PREFIX_TUNING": "prefix_tuning without projection",
}
"""What a phase goes on by with an adapter, by peft's name for its method."""


class PeftTuning(TuningBase):
    """An adapter of peft's over a frozen model; the head is trained in full beside it."""

    layer_decay: ClassVar[float] = 1.0

    @abstractmethod
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config of the adapter, for `get_peft_model`.

        Raises RecipeError for a setting that this model cannot meet.
        """

    def begin(self, model: nn.Module) -> None:
        """Do what must be done to a model that peft has wrapped just now, with the adapter's first values."""

    def carried(self, state: Mapping[str, Tensor], scalings: Mapping[str, float], own: nn.Module) -> dict[str, Tensor]:
        """Return the tensors of an adapter that is gone on with, such that `own` computes with them what that did.

        `scalings` are what it was multiplied with, by module; `own` is this tuning's.
        """
        return dict(state)

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Wrap the model with an adapter from torch's current seed, or go on with the one that is over it.

        Raises RecipeError for settings that fit no module of the model, or that are not those of the adapter to go on
        with.
        """
        from peft import get_peft_model

        from ftlib.kinds.soft_prompts import answering_for_its_input
        from ftlib.models.quiet import quiet

        if hasattr(model, "peft_config"):
            return self._going_on(model, kind, head)
        config = self.settings(model, kind, head)
        try:
            with quiet(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*_pattern keys did not match", RuntimeWarning)  # refused by `begin`
                wrapped = cast("nn.Module", get_peft_model(cast(Any, model), config))
        except ValueError as error:
            raise self.misfit(first_line(error)) from error
        self.begin(wrapped)
        return answering_for_its_input(wrapped)

    @abstractmethod
    def misfit(self, reason: str) -> RecipeError:
        """Return the error of settings that peft refuses for a model."""

    def whole_modules(self, kind: BatchKind, head: Collection[str]) -> list[str] | None:
        """Return the modules that train in full: the head, which language models have none of their own of."""
        return None if KINDS[kind].vocabulary else sorted(head)

    def _going_on(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Put this tuning's own adapter where another is, with that one's weights: it computes the same."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict

        from ftlib.kinds.soft_prompts import method_of

        old: Any = model
        method = method_of(old)
        if method not in self.takes_over:
            raise RecipeError(
                f"tuning: the phase starts from an adapter of {method}, which {kind_of(type(self))!r} cannot go on "
                f"with; use {GOES_ON.get(method, 'the tuning that made it')}, or start from the base"
            )
        state, scalings = get_peft_model_state_dict(old), scalings_of(old)
        heads = [name.removeprefix(prefix_of(method)).removesuffix(".modules_to_save.default") for name in head]
        own: Any = self.prepare(_without_adapter(old), kind, heads)
        shapes = {name: [*value.shape] for name, value in get_peft_model_state_dict(own).items()}
        for name in sorted({*state, *shapes}):
            theirs = [*state[name].shape] if name in state else None
            if theirs != shapes.get(name):
                raise RecipeError(
                    f"tuning: the phase goes on with an adapter that has {name} of shape {theirs or 'none'}, but this "
                    f"tuning makes {shapes.get(name) or 'none'}: give it that adapter's own settings, or start "
                    "from the base"
                )
        set_peft_model_state_dict(own, self.carried(state, scalings, own))
        return own


class MergedOrKept(PeftTuning):
    """An adapter that peft can merge into the weights below it, and that may be kept instead.

    keep      the phase ends in                              from an adapter checkpoint it
    merged    dense weights, the adapter beside them         merges that, and begins an adapter of its own
    adapter   the adapter and head, over what it began on    goes on with that adapter, which must be of its shape
    """

    introduced: ClassVar[Mapping[str, object]] = {"keep": "merged"}

    keep: Literal["merged", "adapter"] = "merged"
    """What the phase ends in: dense weights, or the adapter alone, over the model that it was trained over."""

    makes_adapter: ClassVar[bool] = True

    @property
    @override
    def leaves(self) -> Form:
        return "adapter" if self.keep == "adapter" else "dense"

    @override
    def finish(self, model: nn.Module, adapter: Path) -> None:
        """Write the adapter as peft does, for `keep: merged`."""
        cast(Any, model).save_pretrained(adapter)
        self.saved(model, adapter)


def scalings_of(model: nn.Module) -> dict[str, float]:
    """Return what each layer's adapter is multiplied with, by module; nothing for methods without such a factor."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = ((name, m) for name, m in cast(Any, model).named_modules() if isinstance(m, BaseTunerLayer))
    return {name: cast(Any, layer).scaling["default"] for name, layer in layers if hasattr(layer, "scaling")}


def _without_adapter(model: Any) -> nn.Module:
    """Return the model that peft has wrapped, as it was before; a prompt leaves the modules that train in full."""
    from peft.utils import AuxiliaryTrainingWrapper

    if hasattr(model.base_model, "unload"):
        return model.unload()
    plain: nn.Module = model.get_base_model()
    for name, module in [*plain.named_modules()]:
        if isinstance(module, AuxiliaryTrainingWrapper):
            parent, _, last = name.rpartition(".")
            setattr(plain.get_submodule(parent), last, cast(Any, module).original_module)
    return plain
