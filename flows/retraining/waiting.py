"""Runs that wait for a person's answer, and how a newer retraining of a model takes an older one's place.

Which runs wait is Prefect's to know: a suspended run, with labels that say for what. All of it happens while the
model's only slot is held (`approval.one_at_a_time`), so of an answer to the older run and the newer run's question one
comes first: an older run that goes on already is left alone, and one that was superseded moves nothing.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterKey,
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import flow_run
from prefect.settings import get_current_settings
from prefect.states import Completed

from flows.pages.run_page import artifact_key, artifact_url
from flows.retraining.approval import Approval
from flows.retraining.challenge import Challenge, drop_asked, listing_of
from flows.retraining.retrain_page import markdown, show_retraining
from ftlib.recipe.recipe import Recipe
from ftlib.workspace import Workspace

SUPERSEDED = "Superseded"
MODEL, REGISTRY, VERSION = "reglage.model", "reglage.registry", "reglage.version"
"""Labels of a run that asks a person: which alias of which registry is to mean which version."""
ASKED, HOLD, ATTEMPT = "reglage.asked", "reglage.hold", "reglage.attempt"
"""Labels of the same: since when, behind which rollback (0: none), and which attempt of the run asked last."""


def ask(judged: Challenge, work: Workspace) -> tuple[Approval | None, int | None]:
    """Suspend the run until a person answers; older runs that wait for the same alias end as Superseded.

    Called again by the run that is resumed, it returns the answer, and the rollback that the question spoke of.
    """
    r = judged.recipe
    with get_client(sync_client=True) as client:
        this = client.read_flow_run(UUID(str(flow_run.id)))
        attempt = _attempt(client, this)
        version = judged.version.version if judged.version else 0
        if (this.labels.get(ATTEMPT), this.labels.get(VERSION)) != (attempt, version):  # else it has asked, of this one
            hold = judged.hold.sequence if judged.hold else 0
            asked = this.labels.get(ASKED, datetime.now(UTC).isoformat())
            labels = {**_about(r), VERSION: version, ASKED: asked, HOLD: hold, ATTEMPT: attempt}
            client.update_flow_run_labels(this.id, labels)
            this = client.read_flow_run(this.id)
        older = _waiting_before(client, r, str(this.labels[ASKED]))
        judged = judged.model_copy(update={"supersedes": tuple(link(run) for run in older)})
        show_retraining(judged, work)
        case = markdown(judged, artifact_url(artifact_key("report", r.name)))
        try:
            approval = suspend_flow_run(
                wait_for_input=Approval.asking(case), timeout=Approval.seconds, key=f"approval-{attempt}-{version}"
            )
        except Pause:  # only now does this one wait: killed before, it would have left nobody to ask
            _supersede(client, r, older, this)
            raise
    return approval, int(str(this.labels[HOLD])) or None


def taken_over(judged: Challenge) -> Challenge | None:
    """Return the end of this run if a newer one took its place while it was being resumed."""
    if flow_run.id is None:
        return None
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(flow_run.id))).state
    if state is None or state.name != SUPERSEDED:
        return None
    return judged.ended("superseded", state.message or SUPERSEDED)


def link(run: FlowRun) -> str:
    """Return a link to a run in Prefect's pages; its name where they have no address."""
    pages = get_current_settings().ui_url
    return f"[{run.name}]({pages}/runs/flow-run/{run.id})" if pages else f"{run.name} ({run.id})"


def _attempt(client: SyncPrefectClient, run: FlowRun) -> int:
    """Return how often the run has ended: a suspension does not count, so a resumed run is the attempt that asked.

    One that crashed after the answer asks anew, under a key of its own: the server takes one answer for a key.
    """
    return sum(state.is_final() for state in client.read_flow_run_states(run.id))


def _about(r: Recipe) -> dict[str, Any]:
    return {MODEL: f"{r.publish.name}@{r.retrain.alias}", REGISTRY: r.registry_store().identity}


def _waiting_before(client: SyncPrefectClient, r: Recipe, asked: str) -> list[FlowRun]:
    """Return the runs that have waited for longer for the same alias of the same registry."""
    suspended = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED])))
    retrainings = FlowFilter(name=FlowFilterName(any_=[str(flow_run.flow_name)]))
    runs = client.read_flow_runs(flow_filter=retrainings, flow_run_filter=suspended)
    about = _about(r).items()
    return [run for run in runs if about <= run.labels.items() and str(run.labels.get(ASKED, "")) < asked]


def _supersede(client: SyncPrefectClient, r: Recipe, older: Sequence[FlowRun], by: FlowRun) -> None:
    """End the runs that still wait. One that was answered meanwhile goes on, and is judged as ever."""
    for run in older:
        now = client.read_flow_run(run.id)
        if now.state is None or not now.state.is_paused():
            continue
        message = f"Superseded: {by.name} is a newer retraining of {r.publish.name} and asks in its place"
        client.set_flow_run_state(run.id, Completed(name=SUPERSEDED, message=message))
        # Its process is gone, so nobody else says that it needs its work no more.
        _workspace(run).drop(listing_of(str(run.id)))
        drop_asked(r, _workspace(run), str(run.id))
        _say_on_page(client, run, r, by)


def _workspace(run: FlowRun) -> Workspace:
    """Return the work folder of a run, whose path counts from the same home as this one's."""
    return Workspace(str(run.parameters.get("work", "work")))


def _say_on_page(client: SyncPrefectClient, older: FlowRun, r: Recipe, by: FlowRun) -> None:
    key = ArtifactFilterKey(any_=[artifact_key("retrain", r.publish.name)])
    of_run = ArtifactFilterFlowRunId(any_=[older.id])
    for page in client.read_artifacts(artifact_filter=ArtifactFilter(key=key, flow_run_id=of_run)):
        _, _, rest = str(page.data).partition("\n")
        challenger = f"{r.publish.name}@{older.labels.get(VERSION)}"
        said = f"{link(by)} is a newer retraining and asks in its place. {challenger} stays in the registry."
        text = f"# {r.publish.name}: superseded\n\n{said}\n{rest}"
        client.update_artifact(page.id, ArtifactUpdate(data=text))
