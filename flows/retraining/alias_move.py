"""Moving an alias, for Prefect's flows and the command line: what a promotion or a rollback would do, and did."""

from __future__ import annotations

from dataclasses import dataclass

from ftlib.errors import StorageError
from ftlib.registry import AliasEntry, ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.registry.versions import model_name
from ftlib.wording import meant


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias, as it was decided: nothing is written before `make`."""

    opened: ModelRegistry
    model: str
    alias: str
    version: int
    """What the alias is to mean."""
    before: AliasEntry | None
    """What it means now; None where it was never set."""
    against: int | None
    """The entry that was decided against: the newest one now, or what the caller saw; None: there was none."""
    back: bool
    held: bool = False
    """It was a person's rollback that put in place what it means now, and nobody promoted since."""

    @classmethod
    def promotion(
        cls, opened: ModelRegistry, model: str, alias: str, version: int, expected: int | None = None
    ) -> AliasMove:
        """Let an alias mean a version. Raises StorageError if there is no such version."""
        before = opened.alias(model_name(model), alias)
        opened.version(model, version)
        held = opened.hold(model, alias) is not None
        return cls(opened, model, alias, version, before, _against(before, expected), back=False, held=held)

    @classmethod
    def rollback(
        cls, opened: ModelRegistry, model: str, alias: str, to: int | None = None, expected: int | None = None
    ) -> AliasMove:
        """Let an alias mean again what it meant before, or `to`.

        Raises StorageError if it was never set, or never meant that.
        """
        before = newest_entry(opened, model, alias)
        against = _against(before, expected)
        version = AliasLog(opened.store, model, alias).before(against, to)
        return cls(opened, model, alias, version, before, against, back=True)

    def make(self, who: str, why: str) -> AliasEntry:
        """Move it, and return the entry that says so now.

        Raises ConflictError, and moves nothing, if somebody else moved it since the decision.
        """
        if self.back:
            return self.opened.rollback(self.model, self.alias, self.against, who, why, self.version)
        return self.opened.promote(self.model, self.alias, self.version, self.against, who, why)

    def moved(self, entry: AliasEntry) -> bool:
        """Say whether making it wrote the entry; the alias may have meant the version already."""
        return self.before is None or self.before.sequence != entry.sequence

    def outcome(self, entry: AliasEntry) -> str:
        """Say in one line what making it came to."""
        other = self.before is None or self.before.version != entry.version
        was = f" (before: version {self.before.version})" if self.before and other else ""
        verb = "was already" if not self.moved(entry) else "is now" if other else "is still"
        said = f"{entry.name}@{entry.alias} {verb} version {entry.version}{was}, entry {entry.sequence}"
        if entry.rolled_back == "person":
            return f"{said}; no retraining promotes until a person does"
        return f"{said}; retrainings may promote again" if self.held and self.moved(entry) else said

    def proposal(self) -> str:
        """Say in one line that it was not made."""
        now = f"means version {self.before.version} (entry {self.before.sequence})" if self.before else "is not set"
        return f"nothing moved: {self.model}@{self.alias} {now}; approve to let it mean version {self.version}"


def newest_entry(opened: ModelRegistry, model: str, alias: str) -> AliasEntry:
    """Return what an alias means now. Raises StorageError, which names those there are, if it was never set."""
    opened.version(model_name(model))  # says what models there are
    if (entry := opened.alias(model, alias)) is None:
        aliases = opened.aliases(model)
        there = f"{model} has the aliases {', '.join(aliases) or 'none'}{meant(alias, aliases)}"
        raise StorageError(f"{opened.store.uri}: {model}@{alias} was never set; {there}")
    return entry


def _against(before: AliasEntry | None, expected: int | None) -> int | None:
    if expected is not None:
        return expected or None
    return before.sequence if before else None
