"""Clear away what runs left behind: jobs on a Ray cluster, slots, garbage in registries and in the work folder.

Nothing is deleted unless `delete` is on: without it the page shows what would be.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import flow, get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings
from prefect.states import Completed

from flows.one_line_errors import one_line_errors
from flows.pages.run_page import artifact_key, show_markdown
from flows.retraining.approval import LIMIT
from ftlib.config import Config
from ftlib.errors import RecipeError, ReglageError, first_line
from ftlib.published.work_roots import collect_work
from ftlib.registry import ModelRegistry
from ftlib.registry.garbage_collection import DAY, Collector
from ftlib.storage import Place, open_store
from ftlib.storage.files import in_bytes
from ftlib.wording import counted, escaped, table
from ftlib.work_collection import Retention, WorkCollected, WorkPolicy, collect_cache
from ftlib.workspace import Workspace, user_cache

one_line_errors()

TRAINING = ("finetune", "retrain", "search", "evaluate", "interpolate")
"""The flows whose runs start jobs and hold slots."""
GOING_ON = (StateType.RUNNING, StateType.PENDING, StateType.CANCELLING)
RESTS = timedelta(minutes=10)
"""How long a run must have ended: a retry may be about to go on with its job."""


class Cleared(Config):
    """What was found of one kind, in one place."""

    what: str
    where: str
    found: tuple[str, ...] = ()
    """What is, or would be, cleared away, each by its name."""
    facts: str = ""
    """What else is to be said of it."""
    trouble: str = ""
    """Why it could not be looked at."""


@flow(name="janitor", flow_run_name="janitor")
def janitor(
    delete: bool = False,
    work: str = "work",
    registries: list[str] = [],  # noqa: B006, a default_factory would not reach Prefect's form
    endpoint_url: str | None = None,
    grace_days: float = 7.0,
    keep_days: float = 14.0,
    keep_runs: int = 1,
    retention: list[str] = [],  # noqa: B006
    ignore_registries: list[str] = [],  # noqa: B006
    cache: bool = False,
    ray_address: str | None = None,
) -> State[Any]:
    """Show what runs left behind, and clear it away if `delete` is on.

    Returns a Completed state with a list of Cleared, named Cleared or Shown; a part that cannot be looked at is a line
    on the page, and the others are done.

    Args:
        delete: Clear away. Without this the run only shows what it would.
        work: The work folder, or s3://bucket/prefix.
        registries: Folders that the worker sees, or s3://bucket/prefix; what no version needs is collected there.
        endpoint_url: The S3 server of the registries, if it is not AWS.
        grace_days: How long a registry's garbage is watched before it goes.
        keep_days: What was used in so many days stays in the work folder and the cache.
        keep_runs: What the last so many runs of every recipe used stays.
        retention: What goes after so many days, whoever needs it, as snapshots=30; also prepared, quarantine, outcomes
            and logs.
        ignore_registries: Registries that runs published to and that are gone for good, as their URIs.
        cache: Look at the user's cache, too, which every work folder of the worker's user shares.
        ray_address: A Ray cluster, as http://head:8265, whose jobs of ended runs are stopped.
    """
    for name, days in (("grace_days", grace_days), ("keep_days", keep_days)):
        if not 0 <= days < 36500:
            raise RecipeError(f"{name}: got {days:g}, allowed are days from 0 on")
    if keep_runs < 1:
        raise RecipeError(f"keep_runs: got {keep_runs}, allowed is 1 or more")
    policy = WorkPolicy(keep_days=keep_days, keep_runs=keep_runs, retention=Retention.parse(retention))
    with get_client(sync_client=True) as client:
        parts: list[tuple[str, str, Callable[[], Iterator[Cleared]]]] = [
            ("slots", "the Prefect server", lambda: _slots(client, delete)),
            *(
                ("registry", uri, lambda uri=uri: _registry(uri, endpoint_url, grace_days, delete))
                for uri in registries
            ),
            ("work folder", work, lambda: _work(client, Workspace(work), policy, ignore_registries, delete)),
            ("database", "the Prefect server", lambda: _database(client)),
        ]
        if cache:
            parts.insert(-1, ("cache", str(user_cache()), lambda: _cache(policy, delete)))
        if ray_address:
            parts.insert(0, ("jobs", ray_address, lambda: _jobs(client, ray_address, delete)))
        cleared = [one for what, where, look in parts for one in _safely(what, where, look)]
    show_markdown(artifact_key("janitor"), _page(cleared, delete), "What runs left behind")
    return Completed(name="Cleared" if delete else "Shown", message=_said(cleared, delete), data=cleared)


def _safely(what: str, where: str, look: Callable[[], Iterator[Cleared]]) -> list[Cleared]:
    """Look at one part. What is wrong with it is said, and the others are looked at all the same."""
    try:
        return [*look()]
    except Exception as error:  # a store, a cluster or a server of others': each fails in its own way
        trouble = (
            first_line(error) if isinstance(error, ReglageError) else f"{type(error).__name__}: {first_line(error)}"
        )
        return [Cleared(what=what, where=where, trouble=trouble)]


def _jobs(client: SyncPrefectClient, address: str, delete: bool) -> Iterator[Cleared]:
    """Stop jobs whose run has ended, while no run goes on: another one may have taken over the job."""
    from ftlib.on_ray.jobs import stop_orphans

    busy = _going_on(client)
    orphans = stop_orphans(address, lambda run: _has_ended(client, run), stop=delete and not busy)
    facts = f"{counted(busy, 'run')} going on: none is stopped now" if busy and orphans else ""
    yield Cleared(what="jobs of runs that ended", where=address, found=() if busy else tuple(orphans), facts=facts)


def _has_ended(client: SyncPrefectClient, run: str) -> bool:
    """Say whether a run has ended for a while. One that this server does not know is another server's."""
    try:
        state = client.read_flow_run(UUID(run)).state
    except (ObjectNotFound, ValueError):
        return False
    return state is not None and state.is_final() and datetime.now(UTC) - state.timestamp > RESTS


def _going_on(client: SyncPrefectClient) -> int:
    states = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*GOING_ON])))
    flows = FlowFilter(name=FlowFilterName(any_=[*TRAINING]))
    return len(client.read_flow_runs(flow_filter=flows, flow_run_filter=states))


def _slots(client: SyncPrefectClient, delete: bool) -> Iterator[Cleared]:
    """Free the slots of models that no run holds: a server that kept leases in memory forgets who did."""
    limits = [limit for limit in client.read_global_concurrency_limits() if limit.name.startswith(LIMIT)]
    held = [limit for limit in limits if limit.active_slots]
    busy = _going_on(client)
    if delete and not busy:
        for limit in held:
            client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=0))
    facts = f"{counted(busy, 'run')} going on: none is freed now" if busy and held else ""
    names = () if busy else tuple(limit.name for limit in held)
    yield Cleared(what="slots that no run holds", where="the Prefect server", found=names, facts=facts)


def _registry(uri: str, endpoint_url: str | None, grace_days: float, delete: bool) -> Iterator[Cleared]:
    """Collect what no version needs, publishers that are silent, and half-written files of writers that died."""
    collected = Collector(ModelRegistry(open_store(Place.parse(uri, endpoint_url))), grace_days * DAY).collect(
        delete=delete
    )
    watched = counted(len(collected.condemned), "object")
    facts = f"{in_bytes(collected.deleted_bytes)}; {watched} more watched for {grace_days:g} days"
    yield Cleared(what="objects that no version needs", where=uri, found=collected.deleted, facts=facts)
    yield Cleared(what="leases of silent publishers", where=uri, found=collected.dead_leases)
    yield Cleared(what="half-written files", where=uri, found=collected.temporary)


def _work(
    client: SyncPrefectClient, work: Workspace, policy: WorkPolicy, ignore: Sequence[str], delete: bool
) -> Iterator[Cleared]:
    """Collect what no run, champion or process needs. A place that is not there yet holds nothing.

    A retraining that was cancelled, or that nobody answered in time, left its listing as one that waits does.
    """
    if work.exists():
        listings = [name.removesuffix(".json") for name in work.names("listings") if name.endswith(".json")]
        over = [run for run in listings if _has_ended(client, run)]
        found = collect_work(work, policy, delete=delete, ignore=ignore, over=over)
        yield _collected("work nobody needs", found)


def _cache(policy: WorkPolicy, delete: bool) -> Iterator[Cleared]:
    """Collect what was pulled or fetched for a command and is made again if somebody asks for it."""
    yield _collected("cache nobody needs", collect_cache(user_cache(), policy, delete=delete))


def _collected(what: str, of: WorkCollected) -> Cleared:
    busy = f"; {counted(len(of.busy), 'more')} in use" if of.busy else ""
    kept = in_bytes(sum(item.bytes for item in of.kept))
    watched = f"; {counted(len(of.watched), 'more')} watched" if of.watched else ""
    missed = "".join(f"; {path} is over its retention, needed by {who[0]}" for path, who in of.missed.items())
    facts = f"{in_bytes(of.garbage_bytes)}; {kept} needed{busy}{watched}{missed}"
    return Cleared(what=what, where=of.folder, found=tuple(item.path for item in of.garbage), facts=facts)


def _database(client: SyncPrefectClient) -> Iterator[Cleared]:
    """Say how large Prefect's database is; what ends its growth is a setting of the server."""
    runs = client.request("POST", "/flow_runs/count", json={}).json()
    old = {"flow_runs": {"start_time": {"before_": (datetime.now(UTC) - timedelta(days=90)).isoformat()}}}
    older = client.request("POST", "/flow_runs/count", json=old).json()
    file = _database_file()
    size = f"{in_bytes(file.stat().st_size)}; " if file else ""
    remedy = "; set PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED=events,flow_runs for the server" if older else ""
    facts = f"{size}{counted(runs, 'run')}, {older:,} of them older than 90 days{remedy}"
    yield Cleared(what="database", where="the Prefect server", facts=facts)


def _database_file() -> Path | None:
    """Return the SQLite file, where the server keeps one beside this worker."""
    settings = get_current_settings()
    file = settings.home / "prefect.db"
    here = any(name in str(settings.api.url) for name in ("//127.0.0.1", "//localhost", "//[::1]"))
    return file if here and file.is_file() else None


def _said(cleared: Sequence[Cleared], delete: bool) -> str:
    found = [f"{one.what}: {len(one.found)}" for one in cleared if one.found]
    trouble = [f"{one.where}: {one.trouble}" for one in cleared if one.trouble]
    verb = "cleared away" if delete else "would be cleared away; switch `delete` on"
    return "; ".join([f"{', '.join(found)} {verb}" if found else "nothing to clear away", *trouble])


def _page(cleared: Sequence[Cleared], delete: bool) -> str:
    rows = [["what", "where", "cleared away" if delete else "would be cleared away", ""]]
    for one in cleared:
        said = one.trouble or one.facts
        rows.append([one.what, escaped(one.where), str(len(one.found)) if not one.trouble else "–", escaped(said)])
    names = [f"- {escaped(one.where)}: `{name}`" for one in cleared for name in one.found]
    more = [f"- and {len(names) - SHOWN:,} more"] if len(names) > SHOWN else []
    return "\n\n".join([table(rows), "\n".join([*names[:SHOWN], *more])]).strip() + "\n"


SHOWN = 200
"""Names on the page."""
