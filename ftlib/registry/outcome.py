"""How a publication ends: a version, or a refusal with its reasons."""

from __future__ import annotations

from ftlib.artifacts import Artifact
from ftlib.fingerprint import digest


class Refusal(Artifact):
    """A gate said no: a normal end. Each reason names the metric, what it is and what it had to be."""

    reasons: tuple[str, ...]

    def digest(self) -> str:
        """Return the digest of the reasons."""
        return digest(list(self.reasons))

    def line(self) -> str:
        """Say it in a sentence."""
        return f"Refused, so nothing was published: {'; '.join(self.reasons)}"


class ModelVersion(Artifact):
    """A published, verified, immutable version."""

    name: str
    version: int
    registry: str
    """The registry's URI."""
    manifest: str
    """The sha256 of the manifest."""
    logit_difference: float
    """Largest difference of logits between the version read back through stock transformers and the candidate."""
    created: bool
    """False where this very version was there already."""

    def digest(self) -> str:
        """Return the manifest's digest."""
        return self.manifest

    def line(self) -> str:
        """Say it in a sentence."""
        return f"Published as {self.name}@{self.version} in {self.registry}{'' if self.created else ', as before'}"
