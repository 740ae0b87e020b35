"""Which version an alias means: an append-only numbered log, moved by compare-and-swap.

    models/<name>/aliases/<alias>/00000007.json     create-only; the newest entry is what the alias means

A mover says which entry it decided against. Creating the next number is the swap: of any number of movers one wins,
and the others are told who did. The log is also the audit: who, why, when. Nothing is ever overwritten, so a rollback
is one more entry. A person's rollback also holds what promotes by rule, until a person promotes.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import Field

from ftlib.config import Config, Name
from ftlib.errors import ConflictError, IntegrityError, RecipeError, StorageError, TransientError
from ftlib.registry.versions import RECORDS_AT_ONCE, Sha256, numbers_in, spans
from ftlib.storage.leases import utc_now
from ftlib.storage.sealed_records import read_record, read_sealed, record_bytes
from ftlib.storage.store import Store

Mover = Literal["person", "rule"]

CHAMPION = "champion"
"""The alias that serving reads and retraining challenges."""


class AliasEntry(Config):
    """One move of an alias."""

    schema_version: Literal[1] = 1
    name: Name
    alias: str
    sequence: int = Field(ge=1)
    """Its place in the log, from 1; what a mover gives as `expected`."""
    version: int = Field(ge=1)
    previous: Sha256 | None
    """The sha256 of the entry before, None for the first: whoever changes history must change all of it."""
    nonce: str
    """Tells the mover's own entry from another's when the reply to the write was lost."""
    who: str
    why: str
    at: str
    """UTC; for people. Nothing is ordered by it."""
    rolled_back: Mover | None = Field(default=None, exclude_if=lambda by: by is None)
    """Who went back to an earlier version; None for a promotion, which is then left out: older releases read it."""

    def __str__(self) -> str:
        return f"{self.name}@{self.alias} entry {self.sequence} (version {self.version})"


def alias_name(alias: str) -> str:
    """Return an alias unchanged. Raises RecipeError for one that could be taken for something else."""
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,62}", alias) or alias == "latest" or re.fullmatch(r"v[0-9]+", alias):
        raise RecipeError(
            f"alias {alias!r}: allowed are up to 63 of a-z, 0-9, - and _, starting with a letter; 'latest' and names "
            "like 'v3' already mean versions"
        )
    return alias


def is_alias(name: str) -> bool:
    """Say whether a folder's name can be an alias's."""
    try:
        return bool(alias_name(name))
    except RecipeError:
        return False


def aliases_path(name: str) -> str:
    """Return the folder of a model's aliases."""
    return f"models/{name}/aliases"


class AliasLog:
    """The moves of one alias of one model."""

    def __init__(self, store: Store, name: str, alias: str) -> None:
        self.store, self.name, self.alias = store, name, alias_name(alias)

    def path(self, sequence: int) -> str:
        """Return where an entry is in the registry."""
        return f"{aliases_path(self.name)}/{self.alias}/{sequence:08d}.json"

    def sequences(self) -> list[int]:
        """Return the numbers of the entries there are."""
        return numbers_in(self.store.list(f"{aliases_path(self.name)}/{self.alias}"))

    def newest(self) -> AliasEntry | None:
        """Return what the alias means now, or None if it was never set."""
        numbers = self.sequences()
        return self.read(numbers[-1]) if numbers else None

    def entries(self) -> list[AliasEntry]:
        """Return every move, oldest first."""
        with ThreadPoolExecutor(RECORDS_AT_ONCE) as pool:
            return [entry for entry in pool.map(self.read, self.sequences()) if entry]

    def read(self, sequence: int) -> AliasEntry | None:
        """Return one entry. Raises IntegrityError if it is not the one that belongs there."""
        path = self.path(sequence)
        entry = read_record(self.store, path, AliasEntry)
        if entry and (entry.name, entry.alias, entry.sequence) != (self.name, self.alias, sequence):
            raise IntegrityError(f"{self.store.uri}/{path} says it is {entry}: it was copied there by hand; remove it")
        return entry

    def hold(self) -> AliasEntry | None:
        """Return the person's rollback behind which nobody has promoted; what promotes by rule must not go past it.

        A rollback by rule neither begins nor ends a hold.
        """
        for sequence in reversed(self.sequences()):
            entry = self.read(sequence)
            if entry and entry.rolled_back != "rule":
                return entry if entry.rolled_back else None
        return None

    def digest(self, sequence: int) -> str | None:
        """Return the sha256 of an entry's bytes, or None if there is none. Raises IntegrityError if it is damaged."""
        data = read_sealed(self.store, self.path(sequence))
        return hashlib.sha256(data).hexdigest() if data is not None else None

    def move(
        self, version: int, expected: int | None, who: str, why: str, rolled_back: Mover | None = None
    ) -> AliasEntry:
        """Append an entry behind the one the caller decided against, and return it, or the one that says the same.

        Of the version that is in place already, a person's rollback is an entry of its own, since it begins a hold, and
        so is the promotion that ends one.

        Raises ConflictError, naming who was faster, if the alias has moved to another version since.
        """
        newest = self.newest()
        same = newest is not None and newest.version == version
        if newest and same and self._says(newest, rolled_back):
            return newest
        if (newest.sequence if newest else None) != expected and not (same and rolled_back):
            raise self._conflict(newest, version, expected)
        mine = AliasEntry(
            name=self.name,
            alias=self.alias,
            sequence=newest.sequence + 1 if newest else 1,
            version=version,
            previous=self.digest(newest.sequence) if newest else None,
            nonce=uuid.uuid4().hex,
            who=who,
            why=why,
            at=utc_now(),
            rolled_back=rolled_back,
        )
        if self.store.create(self.path(mine.sequence), record_bytes(mine)):
            return mine
        taken = self.read(mine.sequence)
        if taken is None:
            raise TransientError(f"{self.store.uri} refused {mine} as taken but does not show it; run again")
        twin = (taken.version, taken.rolled_back) == (version, rolled_back)
        if twin or taken.nonce == mine.nonce:  # ours, its reply lost
            return taken
        raise self._conflict(taken, version, expected)

    def _says(self, newest: AliasEntry, rolled_back: Mover | None) -> bool:
        """Say whether the newest entry says all that a move to its version would say."""
        if rolled_back is None:
            return self.hold() is None
        return rolled_back == "rule" or newest.rolled_back == "person"

    def _conflict(self, newest: AliasEntry | None, version: int, expected: int | None) -> ConflictError:
        refused = f"{self.name}@{self.alias} was not moved to version {version}: the decision was against"
        against = f"entry {expected}" if expected else "an alias that was not set"
        if newest is None:
            return ConflictError(f"{refused} {against}, but it was never set; expect none")
        return ConflictError(
            f"{refused} {against}, but by entry {newest.sequence} {newest.who} moved it to version {newest.version} at "
            f"{newest.at} ({newest.why}); compare with version {newest.version} and decide again"
        )

    def stack(self, expected: int | None) -> list[int]:
        """Return what entry `expected` put in place, last, and below it what was in place before and is not taken back.

        A promotion puts its version on the stack, a rollback takes off what is above its own.
        """
        stack: list[int] = []
        for entry in self._until(expected):
            if entry.rolled_back and entry.version in stack:
                while stack[-1] != entry.version:
                    stack.pop()
            elif stack[-1:] != [entry.version]:  # a promotion of the version in place only ends a hold
                stack.append(entry.version)
        return stack

    def before(self, expected: int | None, to: int | None) -> int:
        """Return the version a rollback of entry `expected` goes to: `to`, or the one below on the stack.

        Raises StorageError if there is none.
        """
        meant = sorted({entry.version for entry in self._until(expected)})
        if not meant:
            raise StorageError(
                f"{self.name}@{self.alias} was not set, so there is nothing to roll back: promote a version first"
            )
        if to is not None and to not in meant:
            raise StorageError(
                f"{self.name}@{self.alias} never meant version {to}, only {spans(meant)}; promote it instead"
            )
        if to is not None:
            return to
        *below, top = self.stack(expected)
        if below:
            return below[-1]
        if meant == [top]:
            raise StorageError(f"{self.name}@{self.alias} only ever meant version {top}; there is nothing before it")
        others = spans([version for version in meant if version != top])
        raise StorageError(
            f"{self.name}@{self.alias} means version {top}, and what else it meant ({others}) was rolled back; name "
            "the version to go back to: --to, or the flow's field `to`"
        )

    def _until(self, sequence: int | None) -> list[AliasEntry]:
        return [entry for entry in self.entries() if entry.sequence <= (sequence or 0)]
