"""One side of a served model: the version that answers, and how it goes on to the next as its alias moves.

The log of the alias is polled: one read of the entry that would come next. A new version is pulled, verified, loaded
and asked beside the old one, and only then takes its place; who was asked before answers to the end. A version that
does not load, and a registry that does not answer, leave everything as it is, and are told.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from pydantic import JsonValue

from ftlib.errors import ModelError, ReglageError, first_line
from ftlib.published.loaded import LoadedVersion
from ftlib.registry.aliases import AliasEntry, AliasLog
from ftlib.registry.registry import ModelRegistry
from ftlib.registry.versions import Version
from ftlib.storage.leases import utc_now

_AGAIN_SECONDS, _LONGEST_SECONDS = 10.0, 600.0
"""Between two tries of a version that did not load: the first, doubled each time, and the longest."""
_EARLIER = 3
"""Earlier versions that a server goes back to at its start, where the alias means one that does not load."""
_NICE = 10

Load = Callable[[Version], LoadedVersion]
Tell = Callable[[str], None]


class Side(NamedTuple):
    """A version that answers. It stays as it is; who follows an alias goes on to another."""

    version: Version
    entry: AliasEntry | None
    """The alias's entry that led here; None for a version that was named."""
    loaded: LoadedVersion
    since: str
    """When it began to answer: UTC."""

    @property
    def said(self) -> dict[str, JsonValue]:
        """Return what /version says of it."""
        return {
            "name": self.version.name,
            "version": self.version.version,
            "manifest_sha256": self.version.manifest,
            "published_at": self.version.published_at,
            "entry": self.entry.model_dump(mode="json") if self.entry else None,
            "since": self.since,
        }


class Following:
    """Holds the side that answers now. `load` gives a version that has answered once."""

    def __init__(self, registry: ModelRegistry, name: str, which: str | int, load: Load, tell: Tell) -> None:
        """Load what `which` means. Raises ReglageError where nothing that it means, or meant before, loads."""
        self._registry, self._name, self._which = registry, name, which
        self._load, self._tell = load, tell
        self._log = AliasLog(registry.store, name, which) if isinstance(which, str) else None
        self.trouble: str | None = None
        """Why the alias cannot be looked at; None while it can."""
        self.refused: dict[str, JsonValue] | None = None
        """The newest entry whose version did not load, with the reason; None where the newest one answers."""
        self._again, self._due = _AGAIN_SECONDS, 0.0
        self.side = self._first()
        """Replaced in one step; a caller takes it once for a request."""
        self.vocabularies = (tuple(self.side.loaded.labels),)
        """The labels of each version that has answered, the newest first; replaced in one step."""

    @property
    def said(self) -> dict[str, Any]:
        """Return what /version says of it."""
        return {**self.side.said, "which": self._which, "trouble": self.trouble, "refused": self.refused}

    def _first(self) -> Side:
        """Return the side that answers first: what is meant, or the newest earlier version that loads.

        Raises ReglageError, whatever a library raises: a card that is full, weights that it cannot read.
        """
        try:
            return self._loaded_first()
        except ReglageError:
            raise
        except Exception as error:
            raise ModelError(f"{self._name}@{self._which} does not load: {first_line(error)}") from error

    def _loaded_first(self) -> Side:
        """Load versions, the newest first, until one does."""
        if self._log is None:
            version = self._registry.version(self._name, int(self._which))
            return Side(version, None, self._load(version), utc_now())
        self._registry.resolve(f"{self._name}@{self._which}")  # it says best what is not there
        entries = {entry.version: entry for entry in self._log.entries()}  # of each version the newest
        failed: Exception | None = None
        for entry in sorted(entries.values(), key=lambda entry: -entry.sequence)[: 1 + _EARLIER]:
            try:
                version = self._registry.version(self._name, entry.version)
                return Side(version, entry, self._load(version), utc_now())
            except Exception as error:
                if failed is None:
                    failed = error
                    self._refuse(entry, error)
        assert failed is not None  # there is an entry: it was resolved
        raise failed

    def poll(self) -> None:
        """Look at the alias once, and go on to what it means now. Never raises."""
        if self._log is None:
            return
        try:
            newest = self._newest(self._log)
        except ReglageError as error:
            self._troubled(str(error))
            return
        except Exception as error:
            self._troubled(first_line(error))
            return
        self._troubled(None)
        if newest is not None:
            self._go_on(newest)

    def _newest(self, log: AliasLog) -> AliasEntry | None:
        """Return the newest entry behind the one that answers, or None."""
        newest, here = None, self.side.entry
        sequence = here.sequence if here else 0
        while (entry := log.read(sequence + 1)) is not None:
            newest, sequence = entry, sequence + 1
        return newest

    def _troubled(self, trouble: str | None) -> None:
        if trouble != self.trouble:
            self._tell(
                f"{self._name}@{self._which} cannot be looked at: {trouble}; version {self.side.version.version} "
                "answers on"
                if trouble
                else f"{self._name}@{self._which} can be looked at again"
            )
        self.trouble = trouble

    def _go_on(self, entry: AliasEntry) -> None:
        """Let an entry's version answer once it is loaded; one that did not load is tried again when it is due."""
        refused = self.refused is not None and self.refused["entry"] == entry.sequence
        if refused and time.monotonic() < self._due:
            return
        if not refused:
            self._again = _AGAIN_SECONDS
        if entry.version == self.side.version.version:
            self.side, self.refused = self.side._replace(entry=entry), None
            return
        begun = time.monotonic()
        try:
            version = self._registry.version(self._name, entry.version)
            loaded = self._load(version)
        except Exception as error:
            self._refuse(entry, error)
            return
        before, self.side = self.side, Side(version, entry, loaded, utc_now())
        self.vocabularies = tuple(dict.fromkeys((tuple(loaded.labels), *self.vocabularies)))
        self.refused = None
        self._tell(
            f"{self.side.version} answers now, {before.version} before: entry {entry.sequence} by {entry.who}, loaded "
            f"in {time.monotonic() - begun:.1f} s"
        )

    def _refuse(self, entry: AliasEntry, error: Exception) -> None:
        """Note that an entry's version does not load; it is tried again, ever more seldom."""
        reason = str(error) if isinstance(error, ReglageError) else first_line(error)
        if self.refused is None or self.refused["error"] != reason or self.refused["entry"] != entry.sequence:
            self._tell(f"{self._name}@{entry.version} does not load: {reason}; the version before it answers")
        self.refused = {"entry": entry.sequence, "version": entry.version, "error": reason, "at": utc_now()}
        self._due = time.monotonic() + self._again
        self._again = min(2 * self._again, _LONGEST_SECONDS)


class Poller:
    """The thread that lets sides look at their aliases, behind the requests' back."""

    def __init__(self, followings: list[Following], seconds: float) -> None:
        self._followings, self._seconds = followings, seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="reglage-aliases", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End; a version that is being loaded is left."""
        self._ended.set()

    def _run(self) -> None:
        gently()
        while not self._ended.wait(self._seconds):
            for following in self._followings:
                following.poll()


def gently() -> None:
    """Let this thread have what others leave of the processor."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
