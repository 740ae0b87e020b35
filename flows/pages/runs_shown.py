"""What Prefect's pages say of runs: what this one cost, and for a deployed one all of its work place side by side."""

from collections.abc import Sequence
from pathlib import Path

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.client.schemas.sorting import ArtifactSort
from prefect.runtime import deployment

from flows.pages.run_page import artifact_key, show_markdown
from ftlib.costs.prices import money
from ftlib.report.runs_page import page_text
from ftlib.tracking.run_facts import RunFacts
from ftlib.tracking.run_index import ARTIFACT, read_runs
from ftlib.tracking.run_words import main_metrics, row_of, titles
from ftlib.wording import counted, escaped, table
from ftlib.workspace import Workspace, overwrite

PAGE = "runs/runs.html"
"""In the work place: the page that `reglage runs --html` writes, as of the last deployed run."""
_MOST, _MOST_ON_PAGE = 30, 500
"""Of runs, the newest: in the text, and on the page. `reglage runs --html` has no limit."""


def show_cost(facts: RunFacts, limit: float | None, before: float) -> None:
    """Put on the run's page what it cost by stage, and what is left of its budget; nothing where there are no prices.

    `before` is what earlier attempts cost.
    """
    if facts.cost is not None:
        text = cost_markdown(facts, limit, before)
        show_markdown(artifact_key("cost", facts.recipe), text, f"Cost of {facts.name}")


def cost_markdown(facts: RunFacts, limit: float | None, before: float) -> str:
    """Return that text."""
    cost = facts.cost
    if cost is None:
        return ""
    lines = [f"# {facts.name}: {escaped(cost.line())}"]
    if limit is not None:
        spent = before + cost.total
        earlier = f", {money(before)} of that by earlier attempts" if before else ""
        lines.append(f"Budget: {money(spent)} of {limit:g} {escaped(cost.currency)} are spent{earlier}.")
    worked = [stage for stage in facts.stages if stage.seconds]
    rows = [[stage.stage, f"{stage.seconds:.1f}"] for stage in worked]
    done = len(facts.stages) - len(worked)
    lines.append(table([["stage", "seconds"], *rows]))
    lines.append(f"{counted(done, 'stage')} had been done before and cost nothing again." if done else "")
    return "\n\n".join(line for line in lines if line) + "\n"


def show_runs(work: Workspace) -> None:
    """Write the page of all runs into the work place, and its newest lines as Prefect's artifact.

    Only for a run of a deployment: a team looks there, and a single user asks `reglage runs`.
    """
    if not deployment.id:
        return
    found = read_runs(work).runs
    newest = sorted(found, key=lambda facts: facts.when, reverse=True)[:_MOST_ON_PAGE]
    page = overwrite(work, PAGE, page_text(newest, str(work)).encode())
    show_markdown(ARTIFACT, runs_markdown(newest[:_MOST], len(found), page, work), f"Runs of {work}")


def show_runs_at_first(client: SyncPrefectClient, work: Workspace) -> None:
    """Put into Prefect's artifact the runs that a work place has before any run of a deployment has ended there.

    With none it says how a first one comes. An artifact that says so already, or more, stays as it is.
    """
    found = read_runs(work).runs
    newest = sorted(found, key=lambda facts: facts.when, reverse=True)[:_MOST]
    text = runs_markdown(newest, len(found), None, work)
    asked = ArtifactFilter(key=ArtifactFilterKey(any_=[ARTIFACT]))
    shown = client.read_artifacts(artifact_filter=asked, sort=ArtifactSort.CREATED_DESC, limit=1)
    if not shown or (newest and shown[0].flow_run_id is None and shown[0].data != text):
        client.create_artifact(ArtifactCreate(type="markdown", key=ARTIFACT, description=f"Runs of {work}", data=text))


def runs_markdown(newest: Sequence[RunFacts], count: int, page: Path | None, work: Workspace) -> str:
    """Return a table of the newest runs, and where the page with all of them is; without a run, how one comes here."""
    head = f"# Runs of {escaped(str(work))}"
    elsewhere = (
        f"Runs of the command line are here, too, where they used this work place: `reglage run RECIPE --work {work}`. "
        "Those of another are shown by `reglage runs --work PLACE --html runs.html`."
    )
    if not newest:
        first = "No run has ended here yet. Start one by the form of `finetune` (Deployments, Run, Custom run)."
        return f"{head}\n\n{first}\n\n{elsewhere}\n"
    metrics = main_metrics(newest)
    rows = [row_of(facts, metrics) for facts in newest]
    kept = f", kept as `{work}/{PAGE}`" if work.store else ""
    plot = f" With the plot: `{page}`{kept}" if page else ""
    said = f"The last {len(newest)} of {count}.{plot}"
    return f"{head}\n\n{said}\n\n{table([titles(metrics), *rows])}\n\n{elsewhere}\n"
