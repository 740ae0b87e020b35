"""What one look at a log came to, and what a retraining is told of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from pydantic import ValidationError

from ftlib.answer_log.reader import Reading
from ftlib.config import Config, Name
from ftlib.fingerprint import digest
from ftlib.retraining.live_drift import Drifts
from ftlib.retraining.live_quality import Standard, WindowQuality
from ftlib.wording import counted
from ftlib.workspace import Workspace, overwrite

What = Literal["quiet", "drifted", "worse", "rolled_back", "too_few"]

TITLES: dict[What, str] = {
    "quiet": "Quiet",
    "drifted": "Drifted",
    "worse": "Worse",
    "rolled_back": "Rolled back",
    "too_few": "Too few",
}


class LiveVerdict(Config):
    """One look."""

    name: Name
    alias: str
    version: int
    entry: int
    """The entry of the alias's history that put the version in place: what is judged."""
    registry: str
    log: str
    """Where the answers were read."""
    at: str
    """UTC, ISO 8601."""
    window_days: float
    what: What = "quiet"
    reasons: tuple[str, ...] = ()
    done: str = ""
    """What became of the alias, where a rule asked for a rollback."""
    drift: Drifts = Drifts()
    standard: Standard
    quality: tuple[WindowQuality, ...] = ()
    reading: Reading = Reading()

    @property
    def title(self) -> str:
        """Return the name of the state that the run ends in."""
        return TITLES[self.what]

    @property
    def model(self) -> str:
        """Return the version as commands take it."""
        return f"{self.name}@{self.version}"

    def line(self) -> str:
        """Say it in a sentence."""
        return f"{self.title}: {'; '.join(self.reasons)}{f'; {self.done}' if self.done else ''}"

    @property
    def worse(self) -> tuple[WindowQuality, ...]:
        """Return the windows whose answers were worse than they may be."""
        return tuple(window for window in self.quality if window.worse)

    def findings(self) -> dict[str, str]:
        """Return what there is to tell, each by a key that the same finding has at every look.

        Drift is told once for a set of features, lower quality once for a window.
        """
        told: dict[str, str] = {}
        if large := self.drift.large:
            features = ",".join(sorted(drift.feature for drift in large))
            told[f"drift:{self.entry}:{features}"] = "; ".join(map(str, large))
        for window in self.worse:
            told[f"quality:{self.entry}:{window.number}"] = said_of(window, self.standard)
        return told

    def concluded(self, least_rows: int) -> LiveVerdict:
        """Return it with what follows from what was counted. `least_rows` is what drift needs."""
        if self.worse:
            return self._with("worse", [said_of(window, self.standard) for window in self.worse])
        if large := self.drift.large:
            return self._with("drifted", [str(drift) for drift in large])
        if self.drift.drifts or any(not window.too_few for window in self.quality):
            judged = [window for window in self.quality if not window.too_few]
            same = f"no drift in {counted(len(self.drift.drifts), 'feature')}" if self.drift.drifts else ""
            good = f"{self.standard.what} holds in {counted(len(judged), 'window')}" if judged else ""
            if judged and self.standard.least is None:
                good = self.standard.how
            return self._with("quiet", [text for text in (same, good) if text])
        return self._with("too_few", _why_too_few(self, least_rows))

    def _with(self, what: What, reasons: Sequence[str]) -> LiveVerdict:
        return self.model_copy(update={"what": what, "reasons": tuple(reasons)})


def said_of(window: WindowQuality, asked: Standard) -> str:
    """Say how a window's quality stands to what is asked for."""
    share = "nothing" if window.share is None else f"{window.share:.4f} [{window.low:.4f}, {window.high:.4f}]"
    least = "" if asked.least is None else f"; at least {asked.least:.4f} is asked for"
    return f"{asked.what} {share} of {counted(window.judged, 'answer')} in window {window.number}{least}"


def _why_too_few(verdict: LiveVerdict, least_rows: int) -> list[str]:
    reading = verdict.reading
    if not reading.answer_files and not reading.older_files:
        return [f"no file is below {verdict.log}; correct the place, or wait for the first answers"]
    seen = f"{counted(reading.answers, 'answer')} of {verdict.model}, {reading.labelled:,} with a label"
    elsewhere = [f"{count:,} {reason}" for reason, count in reading.left_out.items()]
    damaged = [f"{reading.damages:,} damaged"] if reading.damages else []
    return [f"{seen}; drift needs {least_rows:,} answers in a window", *elsewhere, *damaged]


class Watched(NamedTuple):
    """What is looked at: one alias of one model of one registry. Several may be looked at from one work place."""

    name: str
    alias: str
    registry: str
    """The store's identity."""

    def event_id(self, key: str) -> str:
        """Return what makes a finding's event the same one however often it is sent."""
        return digest([*self, key])

    def path(self, what: str) -> str:
        """Return where something about it is kept in the work place."""
        return f"monitor/{self.name}-{digest([*self])[:12]}{what}.json"


class Remembered(Config):
    """The newest look at a model, kept in the work place: what was told, and what a retraining has heard."""

    verdict: LiveVerdict
    told: tuple[str, ...] = ()
    """Keys of findings that an event was sent for."""


def remembered(work: Workspace, watched: Watched) -> Remembered | None:
    """Return the newest look; None where there was none, or its file is damaged: all is told once more then."""
    try:
        return Remembered.model_validate_json(work.newest(watched.path("")).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def remember(work: Workspace, watched: Watched, look: Remembered) -> None:
    """Keep a look in place of the one before."""
    overwrite(work, watched.path(""), look.model_dump_json(indent=1).encode())


class Heard(Config):
    """The findings that a retraining has trained for."""

    keys: tuple[str, ...] = ()


def live_reasons(work: Workspace, watched: Watched, version: int, entry: int) -> dict[str, str]:
    """Return what the newest look found of the version in place that no retraining has heard yet: a sentence by key."""
    look = remembered(work, watched)
    if look is None or (look.verdict.version, look.verdict.entry) != (version, entry):
        return {}
    heard = _heard(work, watched)
    return {
        key: f"live {key.partition(':')[0]}: {said}"
        for key, said in look.verdict.findings().items()
        if key not in heard
    }


def hear(work: Workspace, watched: Watched, findings: Collection[str]) -> None:
    """Say that a version was trained after findings, by their keys: they are no reason for another one."""
    if not findings:
        return
    keys = Heard(keys=tuple(sorted({*_heard(work, watched), *findings})))
    overwrite(work, watched.path("-heard"), keys.model_dump_json().encode())


def _heard(work: Workspace, watched: Watched) -> frozenset[str]:
    try:
        return frozenset(Heard.model_validate_json(work.newest(watched.path("-heard")).read_bytes()).keys)
    except (FileNotFoundError, ValidationError):
        return frozenset()
