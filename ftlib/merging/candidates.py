"""Candidates: weights that are a checkpoint, or what a merge makes of several."""

from __future__ import annotations

from ftlib.artifacts import Artifact
from ftlib.fingerprint import Identified, digest, identify
from ftlib.merging.batch_norm import Statistics
from ftlib.merging.methods import Lerp, Merge
from ftlib.models.checkpoint import Checkpoint


class Candidate(Identified):
    """Weights to evaluate: a checkpoint as it is, or what a merge method makes of several."""

    name: str
    start: Checkpoint
    """theta0."""
    end: Checkpoint
    """theta1; its labels, tokenizer and file layout are the candidate's."""
    siblings: tuple[Checkpoint, ...] = ()
    """More checkpoints trained from theta0."""
    merge: Merge | None = None
    """None: the end, as it is."""
    statistics: Statistics | None = None
    """BatchNorm's, measured for the mix; None where nothing was measured: for copies, and models without BatchNorm."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Candidate:
        """Wrap a checkpoint as it is."""
        return cls(name=checkpoint.phase, start=checkpoint, end=checkpoint)

    @classmethod
    def between(cls, start: Checkpoint, end: Checkpoint, alpha: float) -> Candidate:
        """Return the point `(1 - alpha) * start + alpha * end`."""
        return cls(name=f"alpha={alpha:g}", start=start, end=end, merge=Lerp(alpha=alpha))

    def of_task(self, name: str | None) -> Candidate:
        """Return the candidate that one of several tasks is asked of; without a name, or tasks, itself."""
        if name is None:
            return self
        siblings = tuple(sibling.of_task(name) for sibling in self.siblings)
        ends = {"start": self.start.of_task(name), "end": self.end.of_task(name)}
        return self.model_copy(update={**ends, "siblings": siblings})

    @property
    def mixes(self) -> bool:
        """Say whether it is made of several checkpoints, or an end of what is; a plain checkpoint is not."""
        return self.merge is not None

    @property
    def alpha(self) -> float | None:
        """Return its place between theta0 (0) and theta1 (1); None where it has none."""
        return self.merge.coordinate() if self.merge else None

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        """Return the checkpoints its weights are made of, in the order that the merge method takes them."""
        if self.merge is None:
            return (self.end,)
        everyone = (self.start, self.end, *self.siblings)
        return tuple(everyone[i] for i in self.merge.inputs(len(everyone)))

    @property
    def weights(self) -> str:
        """Return the digest of the tensors: what is a byte copy keeps its source's."""
        return self._of([part.weights for part in self.parts])

    def digest(self) -> str:
        """Return the digest of the tensors and of all that lies beside them; a byte copy has its source's."""
        return self._of([part.digest() for part in self.parts])

    @property
    def as_named(self) -> Candidate:
        """Return it as the interpolation names it, before anything is measured for it."""
        return self.model_copy(update={"statistics": None})

    def _of(self, parts: list[str]) -> str:
        source = 0 if self.merge is None else self.merge.whole_copy()
        if source is not None:
            return parts[source]
        assert self.merge is not None
        mixed = digest(["merge", self.merge.version, identify(self.merge), [*parts]])
        return mixed if self.statistics is None else digest(["batch_norm", mixed, self.statistics.digest()])


class Candidates(Artifact):
    """The candidates of an interpolation, theta0 first and theta1 last; nothing is written but this record."""

    members: tuple[Candidate, ...]
    remarks: tuple[str, ...] = ()
    """What was seen of them when they were named, in words."""

    def digest(self) -> str:
        """Return the digest of all members."""
        return digest([member.digest() for member in self.members])
