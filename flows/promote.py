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
from flows.pages.run_page import artifact_key, show_markdown
from flows.retraining.alias_move import AliasMove
from ftlib.evaluation.results import UNDEFINED
from ftlib.registry import ModelRegistry
from ftlib.storage import Place, open_store
from ftlib.wording import table

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
        expected: The entry of the history that you decided against; if somebody moved the alias since, nothing moves.
    """
    opened = ModelRegistry(open_store(Place.parse(registry, endpoint_url)))
    return _shown(AliasMove.promotion(opened, model, alias, version, expected), approve, who, why)


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
        to: A version that the alias meant before; if empty, the last one that no rollback took away.
        why: The reason, kept in the alias's history.
        approve: Move it. Without this the run only shows what would change.
        alias: The name that moves.
        registry: A folder that the worker sees, or s3://bucket/prefix.
        endpoint_url: The S3 server, if it is not AWS.
        who: Your name, kept in the history; the flow run's if empty.
        expected: The entry of the history that you decided against; if somebody moved the alias since, nothing moves.
    """
    opened = ModelRegistry(open_store(Place.parse(registry, endpoint_url)))
    return _shown(AliasMove.rollback(opened, model, alias, to, expected), approve, who, why)


def _shown(move: AliasMove, approve: bool, who: str, why: str) -> State[Any]:
    """Show on the run's page what a move would change, and make it if it is approved."""
    _compare(move)
    if not approve:
        return Completed(name="Not approved", message=move.proposal(), data=move.before)
    entry = move.make(who or f"flow run {flow_run.name} {flow_run.id}", why)
    return Completed(message=move.outcome(entry), data=entry)


def _compare(move: AliasMove) -> None:
    """Put both versions' metrics side by side on the run's page."""
    opened, before = move.opened, move.before
    new = opened.manifest(opened.version(move.model, move.version)).metrics
    old = opened.manifest(opened.version(move.model, before.version)).metrics if before else {}
    head = ["test split", f"version {before.version}, in place" if before else "none in place"]
    rows = [[metric, _number(old, metric), _number(new, metric)] for metric in sorted({*old, *new})]
    show_markdown(
        artifact_key("alias", move.model, move.alias),
        table([[*head, f"version {move.version}"], *rows])
        + "\n\nEach was measured in its own run: on other rows, if the data changed between them.",
        f"{move.model}@{move.alias}: what it means and what it would mean",
    )


def _number(metrics: Mapping[str, float | None], name: str) -> str:
    value = metrics.get(name)
    if value is None:
        return UNDEFINED if name in metrics else "–"
    return f"{value:.4f}"
