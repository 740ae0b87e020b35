"""What an answer is worth: by a model, by a checker, or a sum of both. Read by policies, metrics and judges."""

from ftlib.training.rewards.weighted_sum import Reward

__all__ = ["Reward"]
