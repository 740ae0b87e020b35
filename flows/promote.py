"""Which version an alias means, moved from Prefect's form or its API: promote and rollback.

Nothing moves unless `approve` is on: without it a run shows what would change. The registry decides who wins.
"""

from collections.abc import Mapping
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Completed

from flows.one_line_errors import one_line_errors
from flows.run_page import artifact_key, show_markdown
from ftlib.errors import StorageError
from ftlib.evaluation.results import UNDEFINED
from ftlib.registry import AliasEntry, ModelRegistry
from ftlib.registry.aliases import AliasLog
from ftlib.registry.versions import model_name
from ftlib.storage import Place, open_store
from ftlib.wording import escaped

one_line_errors()


def _run_name() -> str:
    given = flow_run.parameters
    return f"{flow_run.flow_name}-{given['model']}-{given['alias']}"


@flow(name="promote", flow_run_name=_run_name)
def promote(
    model: str,
    version: int,
    why: str = "",
    approve: bool = False,
    alias: str = "champion",
    registry: str = "registry",
    endpoint_url: str | None = None,
    who: str = "",
    expected: int | None = None,
) -> State[Any]:
    """Let an alias mean a version, for everyone who reads model@alias from now on.

    Returns a Completed state with the alias's entry; it is named Not approved if nothing was to move. The run fails
    with ConflictError if somebody else moved the alias since entry `expected`, and moves nothing then.

    Args:
        model: The model's name.
        version: The version's number.
        why: The reason, kept in the alias's history.
        approve: Move it. Without this the run only shows what would change.
        alias: The name that moves.
        registry: A folder that the worker sees, or s3://bucket/prefix.
        endpoint_url: The S3 server, if it is not AWS.
        who: Your name, kept in the history; the flow run's if empty.
        expected: The entry of the history that you decided against. None is the newest one now.
    """
    opened = ModelRegistry(open_store(Place.parse(registry, endpoint_url)))
    before = opened.alias(model_name(model), alias)
    opened.version(model, version)
    _show(opened, model, alias, before, version)
    if not approve:
        return _not_approved(model, alias, before, version)
    against = expected if expected is not None else _sequence(before)
    return _moved(opened.promote(model, alias, version, against or None, _name(who), why), before)


@flow(name="rollback", flow_run_name=_run_name)
def rollback(
    model: str,
    to: int | None = None,
    why: str = "",
    approve: bool = False,
    alias: str = "champion",
    registry: str = "registry",
    endpoint_url: str | None = None,
    who: str = "",
    expected: int | None = None,
) -> State[Any]:
    """Let an alias mean again what it meant before. Nothing is deleted; the history gets one more entry.

    Returns and fails as `promote` does.

    Args:
        model: The model's name.
        to: A version that the alias meant before. None is the last different one.
        why: The reason, kept in the alias's history.
        approve: Move it. Without this the run only shows what would change.
        alias: The name that moves.
        registry: A folder that the worker sees, or s3://bucket/prefix.
        endpoint_url: The S3 server, if it is not AWS.
        who: Your name, kept in the history; the flow run's if empty.
        expected: The entry of the history that you decided against. None is the newest one now.
    """
    opened = ModelRegistry(open_store(Place.parse(registry, endpoint_url)))
    opened.version(model_name(model))  # says what models there are
    before = opened.alias(model, alias)
    if before is None:
        raise StorageError(f"{model}@{alias} was never set in {opened.store.uri}; there is nothing to roll back")
    against = before.sequence if expected is None else expected
    version = AliasLog(opened.store, model, alias).before(against, to)
    _show(opened, model, alias, before, version)
    if not approve:
        return _not_approved(model, alias, before, version)
    return _moved(opened.rollback(model, alias, against, _name(who), why, to), before)


def _sequence(entry: AliasEntry | None) -> int | None:
    return entry.sequence if entry else None


def _name(who: str) -> str:
    return who or f"flow run {flow_run.name} {flow_run.id}"


def _not_approved(model: str, alias: str, before: AliasEntry | None, version: int) -> State[Any]:
    now = f"means version {before.version} (entry {before.sequence})" if before else "is not set"
    message = f"nothing moved: {model}@{alias} {now}; approve to let it mean version {version}"
    return Completed(name="Not approved", message=message, data=before)


def _moved(entry: AliasEntry, before: AliasEntry | None) -> State[Any]:
    name = f"{entry.name}@{entry.alias}"
    if before and before.sequence == entry.sequence:
        message = f"{name} was already version {entry.version}, entry {entry.sequence}"
    else:
        was = f" (before: version {before.version})" if before else ""
        message = f"{name} is now version {entry.version}{was}, entry {entry.sequence}"
    return Completed(message=message, data=entry)


def _show(opened: ModelRegistry, model: str, alias: str, before: AliasEntry | None, version: int) -> None:
    """Put both versions' metrics side by side on the run's page."""
    new = opened.manifest(opened.version(model, version)).metrics
    old = opened.manifest(opened.version(model, before.version)).metrics if before else {}
    head = (
        f"| test split | {f'version {before.version}, in place' if before else 'none in place'} | version {version} |"
    )
    cells = [
        f"| {escaped(metric)} | {_number(old, metric)} | {_number(new, metric)} |" for metric in sorted({*old, *new})
    ]
    note = "\n\nEach was measured in its own run: on other rows, if the data changed between them."
    show_markdown(
        artifact_key("alias", model, alias),
        "\n".join([head, "|---|---|---|", *cells]) + note,
        f"{model}@{alias}: what it means and what it would mean",
    )


def _number(metrics: Mapping[str, float | None], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return UNDEFINED if name in metrics else "–"
    return f"{value:.4f}"
