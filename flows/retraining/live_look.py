"""One look at what the version in place answers live: read, compare, judge, and go back where a rule says so."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from flows.retraining.alias_move import newest_entry
from ftlib.answer_log.place import AnswerLog
from ftlib.answer_log.reader import Asked, moment, read_log
from ftlib.config import user_path
from ftlib.errors import ConflictError, RecipeError, StorageError
from ftlib.recipe.recipe import Recipe
from ftlib.registry import AliasEntry, ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.retraining.live_counts import DAY, Counted
from ftlib.retraining.live_drift import Reference, drifts_of
from ftlib.retraining.live_policy import OfLabels
from ftlib.retraining.live_quality import ACCURACY, quality, standard
from ftlib.retraining.live_verdict import LiveVerdict
from ftlib.storage import Place
from ftlib.storage.files import meant_path


def the_log(r: Recipe, place: str | None) -> AnswerLog:
    """Return the log that is read: `place` in place of the recipe's.

    Raises RecipeError if neither says one, or if `place` is a path of this machine and no folder: who names a place by
    hand has one in mind. The recipe's own may come with its first answer.
    """
    log = r.monitor.log
    if place:
        _check_folder(place)
        return (
            log.model_copy(update={"place": place, "answers": None, "labels": None}) if log else AnswerLog(place=place)
        )
    if log is None:
        raise RecipeError(
            "monitor.log: no log to read; give --log PLACE (the flow's field `log`), or write monitor: {log: {place: "
            "s3://bucket/log}} in the recipe"
        )
    return log


def _check_folder(place: str) -> None:
    if Place.parse(place).remote or (folder := user_path(place)).is_dir():
        return
    if folder.exists():
        raise RecipeError(f"--log: {place} is a file; give the folder above its answers/ and labels/")
    remedy = meant_path(place) or "; give the folder that `reglage serve --log` names, or none for the recipe's"
    raise RecipeError(f"--log: {place} is not there (looked in {Path.cwd()}){remedy}")


def look(r: Recipe, log: AnswerLog, registry: ModelRegistry, now: datetime) -> tuple[LiveVerdict, AliasEntry]:
    """Read the log, and say how the answers of the version in place stand. Nothing is moved.

    Raises StorageError if the alias was never set, or the log's place cannot be listed.
    """
    entry = newest_entry(registry, r.publish.name, r.retrain.alias)
    version = registry.version(entry.name, entry.version)
    manifest = registry.manifest(version)
    lineage = cast("Mapping[str, Any]", manifest.lineage)
    policy, seconds = r.monitor, r.monitor.window_days * DAY
    at, begun = now.timestamp(), moment(entry.at)
    newest = max(1, 1 + math.floor((at - begun) / seconds))
    numbers = range(max(1, newest - policy.windows + 1), newest + 1)
    since = min(at - seconds, begun + seconds * (numbers[0] - 1))
    evaluation = evaluation_of(r)
    reference = Reference.of(lineage, _dataset(r), evaluation)
    answered = reference.answered
    asked = Asked(entry.name, entry.version, version.manifest, since, at)
    with read_log(log, asked) as window:
        counted = Counted(answered.labels if answered else (), at - seconds, begun, seconds)
        for answer in window.answers():
            counted.add(answer)
        reading = window.reading.model_copy(update={"strange_labels": counted.strange_labels})
    asked_for = standard(policy.quality, evaluation, manifest.metrics, answered)
    metrics = r.evaluations[evaluation].metrics if evaluation else ()
    verdict = LiveVerdict(
        name=entry.name,
        alias=entry.alias,
        version=entry.version,
        entry=entry.sequence,
        registry=registry.store.uri,
        log=log.answers_at.uri,
        at=now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        window_days=policy.window_days,
        drift=drifts_of(reference, counted.counts(), policy.drift, f"{entry.name}@{entry.version}"),
        standard=asked_for,
        quality=quality(counted.windows, numbers, policy.quality, asked_for, begun, seconds, metrics),
        reading=reading,
    )
    return verdict.concluded(policy.drift.rows), entry


def evaluation_of(r: Recipe) -> str | None:
    """Return the evaluation that live labels are held against: the rule's, or the first of the published rows' labels.

    None where none measures an accuracy. Raises RecipeError if the rule names one that does not.
    """
    having = [name for name, one in r.evaluations.items() if any(metric.kind == ACCURACY for metric in one.metrics)]
    named = r.monitor.quality.evaluation if isinstance(r.monitor.quality, OfLabels) else None
    if named is not None and named not in having:
        raise RecipeError(
            f"monitor.quality.evaluation: {named!r} measures no accuracy; those that do: {', '.join(having) or 'none'}"
        )
    of_published = [name for name in having if r.evaluations[name].dataset == _dataset(r)]
    return named or next(iter([*of_published, *having]), None)


def go_back(r: Recipe, registry: ModelRegistry, verdict: LiveVerdict, entry: AliasEntry, who: str) -> LiveVerdict:
    """Let the alias mean the version before, if the recipe's rule says so of this verdict; say what became of it.

    Only a promotion that is still the newest entry is taken back, so that a second look moves nothing, no person's hold
    is gone past, and of two monitors one wins.
    """
    if verdict.what != "worse" or r.monitor.rollback == "never":
        return verdict
    if entry.rolled_back:
        by = "a person's" if entry.rolled_back == "person" else "a rule's"
        return _done(verdict, f"the alias stays: entry {entry.sequence} is {by} rollback, and a rule goes back once")
    why = f"monitor's rule: {'; '.join(verdict.reasons)}"
    try:
        made = registry.rollback(entry.name, entry.alias, entry.sequence, who, why, by="rule")
    except ConflictError as error:
        return _done(verdict, f"the alias stays: {error}")
    except StorageError as error:
        if _has_before(registry, entry):
            raise
        return _done(verdict, f"the alias stays: {error}")
    if made.who != who:
        return _done(verdict, f"{made.who} had moved {made.name}@{made.alias} to version {made.version} already")
    done = f"{made.name}@{made.alias} means version {made.version} again, entry {made.sequence}"
    return _done(verdict.model_copy(update={"what": "rolled_back"}), done)


def _has_before(registry: ModelRegistry, entry: AliasEntry) -> bool:
    """Say whether there is a version to go back to."""
    return len(AliasLog(registry.store, entry.name, entry.alias).stack(entry.sequence)) > 1


def _done(verdict: LiveVerdict, done: str) -> LiveVerdict:
    return verdict.model_copy(update={"done": done})


def _dataset(r: Recipe) -> str:
    """Return the name of the dataset that the published model answers."""
    parts = r.phases[-1].parts
    return max(parts, key=parts.__getitem__)


def now_utc() -> datetime:
    """Return what time it is."""
    return datetime.now(UTC)
