"""Low-rank adapters."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

from pydantic import Field
from typing_extensions import override

from ftlib.config import BatchKind
from ftlib.errors import RecipeError, first_line
from ftlib.kinds.kind import KINDS
from ftlib.models.checkpoint import Form
from ftlib.models.parameter_names import in_modules
from ftlib.training.tuning.base import TuningBase

if TYPE_CHECKING:
    from torch import nn


class LoRA(TuningBase):
    """W = W0 + (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685), by peft; the head is trained in full.

    `use_rslora` scales by alpha / sqrt(rank) (arXiv 2312.03732); `use_dora` splits magnitude and direction
    (arXiv 2402.09353).

        keep      the phase ends in                              from an adapter checkpoint it
        merged    dense weights, the adapter beside them         merges that, and begins an adapter of its own
        adapter   the adapter and head, over what it began on    goes on with that adapter, which must be of its shape
    """

    introduced: ClassVar[Mapping[str, object]] = {"keep": "merged", "b_rate_ratio": 1.0}

    kind: Literal["lora"] = "lora"
    rank: int = Field(default=8, gt=0)
    """Columns of B and rows of A."""
    alpha: float = Field(default=16.0, gt=0.0)
    """The update is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of an adapter's inputs that is dropped in training."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Module name endings, or every linear layer but the head; in a network without any, every convolution that is
    not depthwise."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead."""
    use_dora: bool = False
    """Learn magnitude and direction apart."""
    b_rate_ratio: float = Field(default=1.0, gt=0.0)
    """What B's learning rate is, as a multiple of A's and the head's (LoRA+, Hayou et al. 2024, arXiv 2402.12354)."""
    keep: Literal["merged", "adapter"] = "merged"
    """What the phase ends in: dense weights, or the adapter alone, over the model that it was trained over."""

    layer_decay: ClassVar[float] = 1.0
    makes_adapter: ClassVar[bool] = True

    @property
    @override
    def leaves(self) -> Form:
        return "adapter" if self.keep == "adapter" else "dense"

    @property
    @override
    def adapter_scales(self) -> bool:
        """DoRA normalises after adding: its adapter times alpha is another model."""
        return not self.use_dora

    @override
    def rate_factors(self, model: nn.Module, head: Collection[str]) -> Mapping[str, float]:
        return {name: self.b_rate_ratio for name, _ in model.named_parameters() if ".lora_B." in name}

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Wrap the model with adapters from torch's current seed, or go on with the one that is over it.

        Raises RecipeError if `targets` matches nothing, or if the adapter to go on with has another shape.
        """
        from peft import LoraConfig, get_peft_model

        from ftlib.models.quiet import quiet

        if hasattr(model, "peft_config"):
            return self._going_on(model, kind, head)
        config = LoraConfig(
            task_type=KINDS[kind].task_type,
            r=self.rank,
            lora_alpha=cast(int, self.alpha),  # peft annotates int, divides as float
            lora_dropout=self.dropout,
            target_modules=self._modules(model, kind, head),
            modules_to_save=None if KINDS[kind].vocabulary else sorted(head),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
        )
        try:
            with quiet():
                wrapped = cast("nn.Module", get_peft_model(cast(Any, model), config))
        except ValueError as error:
            raise RecipeError(
                f"tuning.targets: {self.targets!r} fits no module of this model: {first_line(error)}; name modules "
                "it has"
            ) from error
        if self.use_dora:
            _measure_magnitudes(wrapped)
        return wrapped

    def _modules(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> list[str] | str:
        """Return what peft is to put adapters over; without a task, it takes a head for one of the linear layers.

        A convolution is a linear map of patches, and a network of nothing else has its linear layers there.
        """
        from torch import nn

        if not isinstance(self.targets, str):
            _check_mergeable(model, self.targets)
            return list(self.targets)
        if KINDS[kind].task_type:
            return self.targets
        body = [(name, m) for name, m in model.named_modules() if not in_modules(name, head)]
        linear = [name for name, m in body if isinstance(m, nn.Linear)]
        convolutions = [name for name, m in body if isinstance(m, nn.Conv2d) and m.groups == 1]
        return linear or convolutions or self.targets

    def _going_on(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        """Put this tuning's own adapter where another is, with that one's weights: it computes the same.

        B is multiplied by the old scaling over the new, since a point between start and end was scaled.
        """
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from peft.tuners.lora import LoraLayer

        old: Any = model
        state = get_peft_model_state_dict(old)
        scaling = {name: m.scaling["default"] for name, m in old.named_modules() if isinstance(m, LoraLayer)}
        heads = [name.removeprefix("base_model.model.").removesuffix(".modules_to_save.default") for name in head]
        own: Any = self.prepare(old.unload(), kind, heads)
        shapes = {name: [*value.shape] for name, value in get_peft_model_state_dict(own).items()}
        for name in sorted({*state, *shapes}):
            theirs = [*state[name].shape] if name in state else None
            if theirs != shapes.get(name):
                raise RecipeError(
                    f"tuning: the phase goes on with an adapter that has {name} of shape {theirs or 'none'}, but this "
                    f"tuning makes {shapes.get(name) or 'none'}: give it that adapter's rank and targets, or start "
                    "from the base"
                )
        for name, module in own.named_modules():
            if isinstance(module, LoraLayer):
                b = f"{name}.lora_B.weight"
                state[b] = state[b] * (scaling[name] / module.scaling["default"])
        set_peft_model_state_dict(own, state)
        return own

    @override
    def finish(self, model: nn.Module, adapter: Path) -> None:
        """Write the adapter as peft does, for `keep: merged`."""
        cast(Any, model).save_pretrained(adapter)


def _measure_magnitudes(model: nn.Module) -> None:
    """Let DoRA's magnitudes begin at the norms of weights that were unread when peft took them, a layer at a time."""
    from peft.tuners.lora import LoraLayer

    from ftlib.models.unread import Unread, values_of

    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    for layer in layers:
        if isinstance((base := layer.get_base_layer()).weight, Unread):
            with values_of(base):
                layer.lora_variant["default"].init(layer, "default", config=cast(Any, model).peft_config["default"])


def _check_mergeable(model: nn.Module, targets: Collection[str]) -> None:
    """Refuse adapters over depthwise convolutions before anything is trained: peft makes some, and merges none."""
    for name, module in model.named_modules():
        groups = getattr(module, "groups", 1)
        if isinstance(groups, int) and groups > 1 and any(f".{name}".endswith(f".{target}") for target in targets):
            raise RecipeError(
                f"tuning.targets: {name} is a convolution of {groups} groups, whose adapter peft cannot merge into its "
                "weights; name other modules"
            )
