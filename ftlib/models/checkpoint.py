"""Records of models: the base model that was found, and checkpoints made from it."""

from __future__ import annotations

from ftlib.artifacts import Artifact
from ftlib.fingerprint import Identified, digest


class FoundModel(Identified):
    """A base model found on this machine: a folder of safetensors, config and tokenizer."""

    name: str
    """How the recipe calls it."""
    uri: str
    weights: str
    """The sha256 over the weight files and config."""
    tokenizer: str
    """The sha256 over the tokenizer's files."""
    generation: str = ""
    """The sha256 of generation_config.json, which is handed on beside the weights; empty where there is none."""
    reads: str = ""
    """The sha256 over what config.json says but for labels and files: how far it reads, and which tokens, follows."""

    def digest(self) -> str:
        """Return the digest of all that is handed on: weights, tokenizer and generation settings."""
        return digest([self.weights, self.tokenizer, *([self.generation] if self.generation else [])])


class Checkpoint(Artifact):
    """Weights that stock transformers loads: the folder `model/` with safetensors, config and tokenizer.

    A phase's end also has `curves.jsonl` (one JSON object per optimiser step or evaluation) and, for LoRA, `adapter/`.
    """

    weights: str
    """The sha256 of the tensors: names, shapes, dtypes and bytes."""
    parent: str | None
    """The `weights` this one was trained from, i.e. theta0; None for a base model."""
    tokenizer: str
    """The digest of the tokenizer whose files lie beside the weights."""
    config: str = ""
    """The digest of config.json and generation_config.json beside them; empty in records of before it was kept."""
    phase: str
    """The phase that made it; `base` for the base model with its new head."""
    fresh_head: bool
    """True while the task head is still as random as it was made: such weights must not be interpolated."""
    labels: tuple[str, ...]
    parameters: int
    trained_parameters: int
    facts: dict[str, float | int | str] = {}
    """What the run measured: steps, epochs, final and best loss, samples per second, world size, peak memory."""

    def digest(self) -> str:
        """Return the digest of all that its folder hands on: equal tensors beside another tokenizer are another one."""
        return digest([self.weights, self.tokenizer, self.config, list(self.labels)])
