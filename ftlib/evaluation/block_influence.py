"""What each layer of a model does to its hidden states, and whether a model without some of them is what it should be.

Hidden states are taken where they enter and leave a layer, by hooks: the last of the `hidden_states` that a model
hands out has mostly gone through its final norm.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ftlib.errors import ModelError
from ftlib.wording import some

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Influences:
    """Means over the tokens of some rows."""

    influences: tuple[float, ...]
    """Of each layer 1 - cosine of its input and its output: block influence (Men et al. 2024, arXiv 2403.03853)."""
    distances: tuple[float, ...]
    """Of `number` neighbours from each layer on, the angle between the first one's input and the last one's output,
    as a share of 180 degrees (Gromov et al. 2024, arXiv 2403.17887, who take the last token alone)."""
    tokens: int


def blocks_of(model: nn.Module, depth: int) -> nn.ModuleList:
    """Return the list of a model's layers. Raises ModelError where there is no list of so many."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == depth]
    if not lists:
        raise ModelError(f"prune: {type(model).__name__} holds no list of its {depth} layers; choose another model")
    return max(lists, key=lambda one: sum(p.numel() for p in one.parameters()))


@torch.inference_mode()
def influences(
    model: nn.Module, blocks: nn.ModuleList, number: int, batches: Sequence[Inputs], on_batch: Callable[[int], None]
) -> Influences:
    """Measure every layer, and every `number` neighbours, of a model in eval mode. What is padding counts for nothing.

    Raises ModelError for a layer whose output is no hidden state of its input's shape, or is not finite.
    """
    depth, tokens = len(blocks), 0
    changed = torch.zeros(depth, dtype=torch.float64)
    turned = torch.zeros(depth - number + 1, dtype=torch.float64)
    for i, inputs in enumerate(batches):
        states = _hidden_states(model, blocks, inputs)
        real = _real_tokens(inputs, states[0])
        states = [state[real].double() for state in states]
        for layer in range(depth):
            changed[layer] += (1.0 - _cosine(states[layer], states[layer + 1])).sum().cpu()
        for first in range(depth - number + 1):
            cosine = _cosine(states[first], states[first + number]).clamp(-1.0, 1.0)
            turned[first] += cosine.arccos().sum().cpu() / torch.pi
        tokens += len(states[0])
        on_batch(i + 1)
    if not changed.isfinite().all():
        raise ModelError(f"prune: hidden states of {type(model).__name__} are not finite; its weights overflow")
    return Influences(tuple((changed / tokens).tolist()), tuple((turned / tokens).tolist()), tokens)


def _cosine(a: Float[Tensor, "tokens width"], b: Float[Tensor, "tokens width"]) -> Float[Tensor, " tokens"]:
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))


def _hidden_states(model: nn.Module, blocks: nn.ModuleList, inputs: Inputs) -> list[Tensor]:
    """Return what enters the first layer, and what leaves each one."""
    states: list[Tensor] = []

    def keep(block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        before, after = _entering(args, kwargs), _leaving(output)
        if not isinstance(after, Tensor) or after.shape != before.shape:
            raise ModelError(f"prune: a {type(block).__name__} makes no hidden state of its input's shape")
        states.extend([after] if states else [before, after])

    hooks = [block.register_forward_hook(keep, with_kwargs=True) for block in blocks]
    try:
        model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != len(blocks) + 1:
        raise ModelError(f"prune: {type(model).__name__} goes through its layers {len(states) - 1} times")
    return states


def _entering(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _leaving(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


def _real_tokens(inputs: Inputs, state: Tensor) -> Bool[Tensor, "rows tokens"]:
    mask = inputs.get("attention_mask")
    if mask is not None and mask.shape == state.shape[:2]:
        return mask.bool()
    return torch.ones(state.shape[:-1], dtype=torch.bool, device=state.device)


@contextmanager
def skipping(blocks: nn.ModuleList, removed: Collection[int]) -> Generator[None]:
    """Let layers hand on what enters them while the block runs: the model without them, whatever its config says."""

    def skip(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        before = _entering(args, kwargs)
        return (before, *cast("tuple[Any, ...]", output)[1:]) if isinstance(output, tuple) else before

    hooks = [blocks[layer].register_forward_hook(skip, with_kwargs=True) for layer in removed]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


_OF_PLACE = ("layer_idx", "layer_id", "layer_index", "layer_number", "training")
"""What a layer knows of its place alone."""


def check_same(
    model: nn.Module, pruned: nn.Module, blocks: nn.ModuleList, removed: Collection[int], inputs: Inputs
) -> None:
    """Compare a pruned model with the whole one whose removed layers hand on what enters them.

    Raises ModelError where a layer is another one at its new number (it attends otherwise, say), or where the two
    answer differently.
    """
    left = [i for i in range(len(blocks)) if i not in removed]
    for new, (old, block) in enumerate(zip(left, blocks_of(pruned, len(left)), strict=True)):
        ours, theirs = _settings(block), _settings(blocks[old])
        if differing := sorted(name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)):
            name = differing[0]
            raise ModelError(
                f"prune: layer {old} would be another at number {new}: {name} {ours.get(name)!r} and not "
                f"{theirs.get(name)!r} ({some(differing, 3)}); what a layer of {type(model).__name__} is follows from "
                "its number, so choose another model, or layers behind which that stays (keep_first, keep_last)"
            )
    with torch.inference_mode():
        with skipping(blocks, removed):
            wanted = _answer(model, inputs)
        got = _answer(pruned, inputs)
    if not torch.allclose(got, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())):
        raise ModelError(
            f"prune: {type(model).__name__} without layers {', '.join(map(str, removed))} answers otherwise than the "
            f"whole one that skips them, by up to {float((got - wanted).abs().max()):.2g}; choose another model"
        )


def _settings(block: nn.Module) -> dict[str, object]:
    """Return the plain attributes of a layer and the modules in it, but for what its number alone says."""
    return {
        f"{name}.{key}".lstrip("."): value
        for name, module in block.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, bool | int | float | str | None) and not key.startswith("_") and key not in _OF_PLACE
    }


def _answer(model: nn.Module, inputs: Inputs) -> Tensor:
    output: Any = model(**inputs)
    return cast("Tensor", output.logits if hasattr(output, "logits") else output[0]).float()


@torch.inference_mode()
def rows_per_second(
    models: Sequence[nn.Module], batches: Sequence[Inputs], tell: Callable[[int, int], None] = lambda done, total: None
) -> list[float]:
    """Return how fast models answer the same rows, batch by batch in turn, after one batch that is not counted.

    `tell` hears after each batch how many are answered, and how many there are.
    """
    rows = sum(len(next(iter(inputs.values()))) for inputs in batches)
    seconds = [0.0] * len(models)
    rounds = [(False, batches[0]), *((True, inputs) for inputs in batches)]
    for number, (counts, inputs) in enumerate(rounds, start=1):
        for i, model in enumerate(models):
            began = time.perf_counter()
            float(_answer(model, inputs).sum())  # waits for a GPU
            seconds[i] += counts * (time.perf_counter() - began)
        tell(number, len(rounds))
    return [rows / max(one, 1e-9) for one in seconds]
