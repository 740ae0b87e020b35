"""What stages use while they work: cores and cards, by the recipe's `compute`."""

from __future__ import annotations

from collections.abc import Sequence

from ftlib.costs.prices import Prices, Usage
from ftlib.training.compute import Compute
from ftlib.training.memory.cards import Card
from ftlib.training.resources import in_this_process

_HOUR = 3600.0
UNNAMED = "a GPU of unknown name"
_TRAINING = ("train", "fisher")
"""Stages of all `workers`."""
_ASKING = ("evaluate", "score", "answer", "revise", "uphold")
"""Stages of all `evaluation_workers`."""
_OF_ONE_WORKER = "batch_norm"
"""A stage of one of them."""
_HERE = ("prune", "diverge")
"""Stages that ask models in the flow's own process."""


def cores_of(stage: str, compute: Compute, machine: int) -> int:
    """Return how many cores a stage keeps busy; `machine` has so many, and a stage without workers takes them all."""
    kind = _kind(stage)
    if kind in ("ingest", "preprocess"):
        return max(1, compute.data_workers)
    if kind in _TRAINING:
        workers = max(1, compute.most_workers)
        return workers * (compute.threads or max(1, machine // workers))
    if kind in _ASKING:
        workers = compute.evaluation_workers
        return workers * (compute.threads or max(1, machine // workers))
    if kind == _OF_ONE_WORKER:
        return compute.threads or max(1, machine // compute.evaluation_workers)
    if kind in _HERE:
        return compute.threads or machine
    return 1


def cards_of(stage: str, compute: Compute) -> int:
    """Return how many GPUs a stage keeps busy."""
    kind = _kind(stage)
    if not compute.use_gpu or kind not in (*_TRAINING, *_ASKING, _OF_ONE_WORKER, *_HERE):
        return 0
    if kind in _TRAINING:
        return max(1, compute.most_workers)
    if not compute.infers_on_ray or kind in _HERE:
        return int(in_this_process(compute).use_gpu)
    return compute.evaluation_workers if kind in _ASKING else 1


def _kind(stage: str) -> str:
    return stage.rpartition(": ")[2].partition(" ")[0]


def used(
    stages: Sequence[tuple[str, float]],
    compute: Compute,
    machine: int,
    card: str,
    stored: int = 0,
    requests: int = 0,
) -> Usage:
    """Return what stages use that work so many seconds: cores and cards times hours.

    A worker that is lost while it trains, and one of an elastic training that never came, count as if they had worked:
    the sum is never too low.
    """
    cores = sum(seconds * cores_of(stage, compute, machine) for stage, seconds in stages) / _HOUR
    cards = sum(seconds * cards_of(stage, compute) for stage, seconds in stages) / _HOUR
    by_card = {card or UNNAMED: cards} if cards else {}
    return Usage(core_hours=cores, gpu_hours=by_card, stored_bytes=stored, requests=requests)


def card_name(compute: Compute) -> str:
    """Return the name of this machine's GPU, where one is asked for and it is here; else an empty word."""
    if not compute.use_gpu:
        return ""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""


def priced_name(card: Card, prices: Prices) -> str:
    """Return the name by which a card has a price: its own or what its driver says, the dearest of several."""
    names = [name for name in prices.gpu_hour if name.lower() == card.name.lower()]
    names = names or [name for name in prices.gpu_hour if card.is_called(name)]
    return max(names, key=lambda name: prices.gpu_hour[name], default=card.name)
