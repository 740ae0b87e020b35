"""What metrics and judges that ask a reward have in common; each reward model is loaded once in a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

from pydantic import model_validator

from ftlib.config import Config, Name
from ftlib.models.folder import find_model
from ftlib.models.reference import ModelRef
from ftlib.training.rewards import Reward
from ftlib.training.rewards.base import RewardModel
from ftlib.wording import these


class AsksReward(Config):
    """A metric or a judge that says what an answer is worth by a reward, of which there may be models."""

    reward: Reward
    """What an answer is worth: a checker, a model, or a sum."""
    models: dict[Name, ModelRef] = {}
    """Where the reward models are that it asks, by the names it has for them."""

    @model_validator(mode="after")
    def _models_are_named(self) -> AsksReward:
        if {*self.reward.companions} != {*self.models}:
            asks, given = these(self.reward.companions), these(self.models)
            raise ValueError(f"models: its reward asks {asks}, got {given}; name where each of them is")
        return self

    @property
    def asks(self) -> Mapping[str, ModelRef]:
        """The reward models, by name."""
        return self.models

    def misfits(self) -> Sequence[str]:
        """Say what of the reward cannot work."""
        return self.reward.misfits()


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
