"""What a forward and backward pass holds, counted on tensors that have a shape and no memory (torch's FakeTensor).

Every operation is dispatched as it would be, to the kernels of the CPU, and makes tensors without values: what is alive
at any time is exactly what would be, for any architecture, attention, loss, recomputation or autocast, at the price of
some milliseconds a layer.

The trap: models ask for values. `states[targets != -100]` has as many rows as there are targets, and a mask of ones
takes another path than one of zeros. So whole numbers and truth values keep theirs: they are computed beside.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils import _python_dispatch as dispatch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakIdKeyDictionary

_SMALL = 1 << 16
"""Numbers of a float tensor up to which its values are kept beside it too: scalars, tables of positions."""


@dataclass(frozen=True)
class Held:
    """Bytes that were alive at the peak, beside the model."""

    gradients: int = 0
    logits: int = 0
    """Of tensors whose last dimension is the vocabulary."""
    activations: int = 0
    """All the rest: what is kept for the way back, and what an operation needs for itself."""

    @property
    def total(self) -> int:
        """Return their sum."""
        return self.gradients + self.logits + self.activations


class LiveBytes:
    """A copy of a model without memory, and what its passes hold."""

    def __init__(self, model: nn.Module, companions: Mapping[str, nn.Module], words: int = 0) -> None:
        """Copy models from any device, torch's meta device too; `words` is how many a language model predicts."""
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._counter = _Counter(words)
        with self._fake:
            self.model = without_memory(model, "cpu")
            self.companions = {name: without_memory(one, "cpu") for name, one in companions.items()}
        for before, after in ((model, self.model), *((companions[name], one) for name, one in self.companions.items())):
            for old, new in zip(before.buffers(), after.buffers(), strict=True):
                if not (old.is_meta or old.is_floating_point()):
                    self._counter.values[new] = old.detach().cpu()

    def peak(self, work: Callable[[], object], *, gradients: Literal["none", "kept", "handed on"] = "none") -> Held:
        """Return what is held at the peak of `work`, which asks `model`, and its companions.

        `gradients`: none are there before; they are, from earlier micro-batches; or each is handed on, to where ranks
        add them up, as soon as it is computed, and none is counted.
        """
        trained = [p for p in self.model.parameters() if p.requires_grad]
        with self._fake:
            for parameter in trained:
                parameter.grad = torch.empty_like(parameter) if gradients == "kept" else None
            for model in (self.model, *self.companions.values()):
                for tensor in (*model.parameters(), *model.buffers()):
                    self._counter.ignore(tensor)
            before = sum(bytes_of(p) for p in trained) if gradients == "kept" else 0
            with self._counter.counting(trained, before, handed_on=gradients == "handed on"):
                work()
        for parameter in trained:
            parameter.grad = None
        return self._counter.peak


def without_memory(model: nn.Module, device: str) -> nn.Module:
    """Copy a model with tensors of no values; those that two modules share stay shared."""
    memo: dict[int, Any] = {}
    for parameter in model.parameters():
        empty = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
        memo[id(parameter)] = nn.Parameter(empty, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return copy.deepcopy(model, memo)


def bytes_of(tensor: Tensor) -> int:
    """Return what a tensor's values take."""
    return tensor.numel() * tensor.element_size()


class _Counter(dispatch.TorchDispatchMode):
    """Adds up the bytes of storages while they are alive."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.values = WeakIdKeyDictionary()
        """The values of tensors of whole numbers, by the tensor without memory."""
        self._words = words
        self._kinds: dict[int, tuple[str, int]] = {}
        self._live: dict[str, int] = dict.fromkeys(("gradients", "logits", "activations"), 0)
        self._ignored: list[Any] = []
        self.peak = Held()

    def ignore(self, tensor: Tensor) -> None:
        """Leave out a tensor that is there before and after."""
        self._ignored.append(tensor.untyped_storage())
        self._kinds[_key(tensor)] = ("", 0)

    @contextmanager
    def counting(self, trained: list[nn.Parameter], gradients: int, *, handed_on: bool) -> Generator[None]:
        """Count from here; so many bytes of gradients are there before."""
        self._live = {"gradients": gradients, "logits": 0, "activations": 0}
        self.peak = Held(gradients=gradients)
        for parameter in trained:
            if parameter.grad is not None:
                self.ignore(parameter.grad)
        take = _hand_on if handed_on else self._take_gradient
        hooks = [p.register_post_accumulate_grad_hook(take) for p in trained]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def _take_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None
        key = _key(parameter.grad)
        kind, size = self._kinds.get(key, ("", 0))
        if kind in ("logits", "activations"):
            self._kinds[key] = ("gradients", size)
            self._live[kind] -= size
            self._live["gradients"] += size
            if sum(self._live.values()) >= self.peak.total:  # the same bytes, under their right name
                self.peak = Held(**self._live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation of torch without memory, but for whole numbers' values, and count what it makes."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            values = self._values_of(args[0])
            with _without_modes():
                return 1.0 if values is None else values.item()
        if func is torch.ops.aten.nonzero.default and (values := self._values_of(args[0])) is not None:
            with _without_modes():
                values = values.nonzero()
            return self._with_values(values)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], self._places(args[1]), *args[2:])
        elif func is torch.ops.aten.masked_select.default and (mask := self._values_of(args[1])) is not None:
            return torch.ops.aten.index.Tensor(args[0], self._places_of(mask))
        out = func(*args, **kwargs)
        self._compute_beside(func, args, kwargs, out)
        for tensor in tree_leaves(out):
            if isinstance(tensor, FakeTensor):
                self._note(tensor)
        return out

    def _values_of(self, tensor: Tensor) -> Tensor | None:
        return self.values.get(tensor) if isinstance(tensor, FakeTensor) else tensor

    def _with_values(self, values: Tensor) -> Tensor:
        tensor = torch.empty_strided(values.shape, values.stride(), dtype=values.dtype)
        self.values[tensor] = values
        self._note(tensor)
        return tensor

    def _places(self, indices: Any) -> list[Any]:
        """Return indices with truth values turned into places, whose number is known."""
        places: list[Any] = []
        for index in indices:
            values = None if index is None or index.dtype != torch.bool else self._values_of(index)
            if values is None:
                places.append(index)
            else:
                places += self._places_of(values)
        return places

    def _places_of(self, mask: Tensor) -> list[Tensor]:
        with _without_modes():
            places = mask.nonzero(as_tuple=True)
        return [self._with_values(one) for one in places]

    def _compute_beside(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Compute what is made of known values alone; what is random has none."""
        made = [tensor for tensor in tree_leaves(out) if isinstance(tensor, FakeTensor)]
        if not made or not all(map(_is_kept, made)) or torch.Tag.nondeterministic_seeded in func.tags:
            return
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if any(self._values_of(tensor) is None for tensor in given):
            for tensor in made:
                self.values.pop(tensor, None)  # written to with what is not known
            return
        real_args, real_kwargs = tree_map(
            lambda leaf: self._values_of(leaf) if isinstance(leaf, Tensor) else leaf, (args, kwargs)
        )
        with _without_modes():
            computed = tree_leaves(func(*real_args, **real_kwargs))
        for tensor, values in zip(made, (one for one in computed if isinstance(one, Tensor)), strict=True):
            self.values[tensor] = values

    def _note(self, tensor: Tensor) -> None:
        if (key := _key(tensor)) in self._kinds:
            return
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        kind = "logits" if self._words and tensor.dim() > 1 and tensor.shape[-1] == self._words else "activations"
        self._kinds[key] = (kind, size)
        self._live[kind] += size
        weakref.finalize(storage, self._free, key)
        if sum(self._live.values()) > self.peak.total:
            self.peak = Held(**self._live)

    def _free(self, key: int) -> None:
        kind, size = self._kinds.pop(key)
        if kind:
            self._live[kind] -= size


def _key(tensor: Tensor) -> int:
    """Return what tells a tensor's storage from others while it is alive."""
    return cast(Any, tensor.untyped_storage())._cdata


def _without_modes() -> Any:
    return cast(Any, dispatch)._disable_current_modes()


def _hand_on(parameter: Tensor) -> None:
    parameter.grad = None


def _is_kept(tensor: Tensor) -> bool:
    return tensor.numel() <= _SMALL or not (tensor.is_floating_point() or tensor.is_complex())
