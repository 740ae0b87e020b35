"""Low-rank adapters."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, cast

from pydantic import BeforeValidator, Field, model_validator
from typing_extensions import override

from ftlib.config import BatchKind, NamePattern
from ftlib.errors import RecipeError
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import prefix_of
from ftlib.models.parameter_names import in_modules
from ftlib.training.tuning.added_rows import begin_rows, rows_to_train
from ftlib.training.tuning.by_peft import MergedOrKept, scalings_of
from ftlib.training.tuning.pissa import convert, take_out
from ftlib.wording import some

if TYPE_CHECKING:
    from torch import Tensor, nn


def _ids_or_added(value: object) -> object:
    """Refuse what is neither, in one sentence; a union of its own would say one of each member."""
    listed = isinstance(value, (list, tuple)) and all(type(id) is int and id >= 0 for id in cast("list[object]", value))
    if value != "added" and not listed:
        raise ValueError(f"got {value!r}, allowed are added and a list of token numbers")
    return value


class LoRA(MergedOrKept):
    """W = W0 + (alpha / rank) B A (Hu et al. 2021, arXiv 2106.09685), by peft; the head is trained in full.

    `use_rslora` scales by alpha / sqrt(rank) (arXiv 2312.03732); `use_dora` splits magnitude and direction
    (arXiv 2402.09353). `init: pissa` begins at W's own first `rank` directions, and freezes the rest of W (arXiv
    2404.02948); what is saved is the difference, a plain adapter of twice the rank over W, as peft converts one.
    """

    introduced: ClassVar[Mapping[str, object]] = {
        **{"b_rate_ratio": 1.0, "rank_pattern": {}, "alpha_pattern": {}, "modules_to_save": (), "init": "default"},
        "token_rows": "added",
    }

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
    rank_pattern: dict[NamePattern, Annotated[int, Field(gt=0)]] = {}
    """Another rank for the modules whose names end with one of these regular expressions."""
    alpha_pattern: dict[NamePattern, Annotated[float, Field(gt=0.0)]] = {}
    """Another alpha for the modules whose names end with one of these regular expressions."""
    modules_to_save: tuple[str, ...] = ()
    """Endings of the names of modules that are trained in full beside the head, and lie in the adapter whole."""
    token_rows: Annotated[tuple[int, ...] | Literal["added"], BeforeValidator(_ids_or_added)] = "added"
    """Tokens, by their numbers, whose rows of the embedding, and of an output of its own, are trained beside the
    adapter; `added`: those that the recipe's `added_tokens` adds."""
    init: Literal["default", "pissa"] = "default"
    """What A and B begin as: random and 0, or W's first `rank` singular directions, which are taken out of W."""

    makes: ClassVar[str] = "LORA"
    moves_rows: ClassVar[bool] = True

    @property
    @override
    def adapter_scales(self) -> bool:
        """DoRA normalises after adding, and rows of tokens are no difference: such times alpha is another model."""
        return not self.use_dora and self.token_rows == "added"

    @property
    @override
    def adapter_adds(self) -> bool:
        return self.adapter_scales and not self.modules_to_save

    @override
    def with_added_rows(self, rows: tuple[int, ...]) -> LoRA:
        return self.model_copy(update={"token_rows": rows}) if self.token_rows == "added" else self

    @override
    def rate_factors(self, model: nn.Module, head: Collection[str]) -> Mapping[str, float]:
        marks = (".lora_B.", ".lora_embedding_B.")
        return {name: self.b_rate_ratio for name, _ in model.named_parameters() if any(mark in name for mark in marks)}

    @override
    def settings(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> Any:
        """Return peft's config. Raises RecipeError for a convolution that peft could not merge into."""
        from peft import LoraConfig

        return LoraConfig(
            task_type=KINDS[kind].task_type,
            r=self.rank,
            lora_alpha=cast(int, self.alpha),  # peft annotates int, divides as float
            lora_dropout=self.dropout,
            target_modules=self._modules(model, kind, head),
            modules_to_save=self.whole_modules(kind, head),
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            rank_pattern=dict(self.rank_pattern),
            alpha_pattern=cast("dict[str, int]", dict(self.alpha_pattern)),
            trainable_token_indices=rows_to_train(model, self._rows) if self._rows else None,
        )

    @property
    def _rows(self) -> tuple[int, ...]:
        return () if isinstance(self.token_rows, str) else self.token_rows

    @model_validator(mode="after")
    def _begins_one_way(self) -> LoRA:
        if self.use_dora and self.init == "pissa":
            raise ValueError("use_dora measures W, and init: pissa takes W apart; leave one of them out")
        if self.quantization and self.init == "pissa":
            raise ValueError("init: pissa takes W apart, which is held in four bits; use lora, or leave it out")
        if self._rows and self.keep == "adapter":
            raise ValueError(
                "keep: adapter has rows of tokens as they are and not what they moved by, so it cannot be scaled; set "
                "keep: merged, or leave token_rows out"
            )
        return self

    @override
    def prepare(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> nn.Module:
        if self.init == "pissa" and hasattr(model, "peft_config"):
            raise RecipeError(
                "tuning.init: pissa begins an adapter, and the phase goes on with one, which has twice its rank if it "
                "began so; leave init out"
            )
        _check_whole(self.modules_to_save, model)
        return super().prepare(model, kind, head)

    @override
    def begin(self, model: nn.Module) -> None:
        _check_patterns(self.rank_pattern, "rank_pattern", model)
        _check_patterns(self.alpha_pattern, "alpha_pattern", model)
        if self.use_dora:
            _measure_magnitudes(model)
        if self.init == "pissa":
            take_out(model)
        if self._rows:
            begin_rows(model)

    @override
    def whole_modules(self, kind: BatchKind, head: Collection[str]) -> list[str] | None:
        return [*(super().whole_modules(kind, head) or ()), *self.modules_to_save] or None

    @override
    def saved(self, model: nn.Module, adapter: Path) -> None:
        if self.init == "pissa":
            convert(model, adapter)

    @override
    def misfit(self, reason: str) -> RecipeError:
        return RecipeError(
            f"tuning.targets: {self.targets!r} fits no module of this model: {reason}; name modules it has"
        )

    def _modules(self, model: nn.Module, kind: BatchKind, head: Collection[str]) -> list[str] | str:
        """Return what peft is to put adapters over; without a task, it takes a head for one of the linear layers.

        A convolution is a linear map of patches, and a network of nothing else has its linear layers there.
        """
        from torch import nn

        from ftlib.training.loops.frozen import never_trained

        still = never_trained(model)
        if not isinstance(self.targets, str):
            _check_mergeable(model, self.targets)
            if not still:
                return list(self.targets)
            endings = tuple(f".{target}" for target in self.targets)
            named = [name for name, _ in model.named_modules() if f".{name}".endswith(endings)]
            return [name for name in named if not name.startswith(still)] or list(self.targets)
        if KINDS[kind].task_type:
            return self.targets
        inner = [(name, m) for name, m in model.named_modules() if not name.startswith(still)]
        body = [(name, m) for name, m in inner if not in_modules(name, head)]
        linear = [name for name, m in body if isinstance(m, nn.Linear)]
        convolutions = [name for name, m in body if isinstance(m, nn.Conv2d) and m.groups == 1]
        return linear or convolutions or self.targets

    @override
    def carried(self, state: Mapping[str, Tensor], scalings: Mapping[str, float], own: nn.Module) -> dict[str, Tensor]:
        """Multiply B by the old scaling over the new, since a point between start and end was scaled."""
        rescaled = dict(state)
        for name, scaling in scalings_of(own).items():
            b = f"{name}.lora_B.weight"
            b = b if b in rescaled else f"{name}.lora_embedding_B"
            rescaled[b] = rescaled[b] * (scalings[name] / scaling)
        return rescaled


def _check_patterns(patterns: Collection[str], field: str, model: nn.Module) -> None:
    """Raise RecipeError for a pattern that no adapter's module matches, as peft matches them."""
    names = [name.removeprefix(prefix_of("LORA")) for name in scalings_of(model)]
    for pattern in patterns:
        if not any(re.match(rf"(.*\.)?({pattern})$", name) for name in names):
            raise RecipeError(
                f"tuning.{field}: {pattern!r} matches no module with an adapter; there are {some(names, 3)}"
            )


def _check_whole(endings: Collection[str], model: nn.Module) -> None:
    """Raise RecipeError for modules that are not there, or share weights: peft would train a copy for one of them."""
    tied = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for ending in endings:
        named = [(name, m) for name, m in model.named_modules() if f".{name}".endswith(f".{ending}")]
        if not named and not hasattr(model, "peft_config"):
            raise RecipeError(f"tuning.modules_to_save: {ending!r} is no module of this model; name one it has")
        for name, module in named:
            if any(tied[id(p)] > 1 for p in module.parameters()):
                raise RecipeError(
                    f"tuning.modules_to_save: {name} shares its weights with another module, and peft would train a "
                    "copy for one of them alone; leave it out, or use full"
                )


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
