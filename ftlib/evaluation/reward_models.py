"""Reward models that metrics and judges ask, by where they are: each is loaded once in a process."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.training.rewards.base import RewardModel


def models_of(refs: Mapping[str, ModelRef]) -> dict[str, RewardModel]:
    """Return the models, by name. Raises ModelError for one that cannot be loaded, or is no reward model."""
    return {name: _loaded(ref.path, ref.revision) for name, ref in refs.items()}


def weights_of(refs: Mapping[str, ModelRef]) -> str:
    """Return the digest of each model's weights, by its name. Raises ModelError for one that is not there."""
    return "|".join(f"{name}:{find_model(ref).weights[:16]}" for name, ref in sorted(refs.items()))


@cache
def _loaded(path: str, revision: str | None) -> RewardModel:
    from ftlib.training.rewards.scoring import load_reward_model

    return load_reward_model(find_model(ModelRef(path=path, revision=revision)))
