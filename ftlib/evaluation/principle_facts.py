"""What written principles made of a phase's prompts, in numbers that the report shows."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from ftlib.artifacts import Artifact
from ftlib.config import Config, Name
from ftlib.data.datasets import PreparedDataset
from ftlib.fingerprint import digest


class Kept(Config):
    """How many of some answers keep a principle."""

    answers: int
    kept: int
    unclear: int = 0
    """Answers of which the critic said neither yes nor no; they do not count as kept."""

    @property
    def share(self) -> float | None:
        """Return the share that keeps it; None of no answers."""
        return self.kept / self.answers if self.answers else None


class PrincipleFacts(Config):
    """What a principle made of the drafts to a phase's prompts."""

    principle: str
    by: Literal["checker", "critic"]
    """Who says what is kept."""
    drafts: Kept
    revisions: Kept
    """Of the revisions that differ from their drafts."""
    pairs: int
    """Rows that are learnt."""
    outcomes: dict[str, int]
    """What became of the drafts, by reason."""


class RevisedDataset(PreparedDataset):
    """Pairs of a revision and its draft, and what each principle made of them."""

    principles: tuple[PrincipleFacts, ...]

    def as_prepared(self) -> PreparedDataset:
        """Return the pairs alone, as stages take them that hand their record on with other rows."""
        return PreparedDataset.model_validate({name: getattr(self, name) for name in PreparedDataset.model_fields})


class UpheldPrinciple(Config):
    """How many of a phase's answers to prompts that it never saw keep a principle, before it and after."""

    principle: str
    by: Literal["checker", "critic"]
    before: Kept
    after: Kept
    gained: int
    """Prompts whose answer keeps it only after the phase."""
    lost: int
    """Those whose answer kept it only before."""
    p_value: float
    """McNemar's, exact and two-sided: how surprising these would be as tosses of a coin."""


class Upheld(Artifact):
    """What a phase did to its principles, on held-out prompts."""

    phase: Name
    critic: str
    """Who criticises, as people call it."""
    drafted: tuple[PrincipleFacts, ...]
    """What the phase learnt from."""
    principles: tuple[UpheldPrinciple, ...]
    """In the order of the file."""

    @override
    def digest(self) -> str:
        return digest([self.phase, self.critic, [one.model_dump() for one in (*self.drafted, *self.principles)]])
