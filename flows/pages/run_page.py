"""What a run puts on its page in Prefect: texts, where its rows went, and at the end the report with its plots."""

import base64
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.settings import get_current_settings
from prefect.utilities.context import get_task_and_flow_run_ids

from flows.pages.rows_page import rows_markdown
from ftlib.artifacts import Artifact
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.render import markdown_with_outcome
from ftlib.report.report import Report
from ftlib.stages.step import Step
from ftlib.wording import dated

LARGEST_MARKDOWN = 1_200_000
"""Bytes; beyond that the plots are left out: Prefect fails a run whose artifact makes an event of over 1,500,000."""

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def artifact_key(*words: str) -> str:
    """Return a key that Prefect accepts: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Put a text on this run's page, in place of what it showed there under that key, also before it was suspended."""
    task_run, run = get_task_and_flow_run_ids()
    if run is None:  # a flow's function, called without Prefect: there is no page
        return
    with get_client(sync_client=True) as client:
        if shown := _of_this_run(client, key):
            client.update_artifact(shown, ArtifactUpdate(data=markdown, description=description))
            return
        artifact = ArtifactCreate(type="markdown", key=key, description=description, data=markdown)
        client.create_artifact(artifact.model_copy(update={"flow_run_id": run, "task_run_id": task_run}))


def _of_this_run(client: SyncPrefectClient, key: str) -> UUID | None:
    _, run = get_task_and_flow_run_ids()
    of_run = ArtifactFilterFlowRunId(any_=[run] if run else [])
    of_this_key = ArtifactFilter(key=ArtifactFilterKey(any_=[key]), flow_run_id=of_run)
    return next((artifact.id for artifact in client.read_artifacts(artifact_filter=of_this_key, limit=1)), None)


@dataclass
class RunPage:
    """Puts on the run's page what its stages made, as soon as it is there: where every row went, and the report.

    Reports of one recipe form a timeline.
    """

    run: str
    datasets: Collection[str]
    _report: str = ""
    _raw: dict[str, RawDataset] = field(default_factory=dict[str, RawDataset])
    _prepared: dict[str, PreparedDataset] = field(default_factory=dict[str, PreparedDataset])

    def __call__(self, step: Step, output: Artifact) -> None:
        """Take what a stage made."""
        if isinstance(output, Report):
            self._report = inlined(output.path / output.markdown)
            self._show_report(self._report, f"Report of {self.run}")
        elif isinstance(output, ModelVersion | Refusal):
            self.outcome(output.line())
        elif isinstance(output, RawDataset):
            self._raw[step.which] = output
        elif isinstance(output, PreparedDataset):
            self._prepared[step.which] = output
            if self._prepared.keys() == {*self.datasets}:
                rows = rows_markdown(self._raw, self._prepared)
                show_markdown(artifact_key("rows", self.run), rows + "\n", f"Rows of {self.run}")

    def outcome(self, line: str) -> None:
        """Say at the head of the report what became of the run."""
        if self._report:
            self._show_report(markdown_with_outcome(self._report, dated(line)), line)

    def _show_report(self, text: str, line: str) -> None:
        show_markdown(artifact_key("report", self.run), text, line)


def artifact_url(key: str) -> str | None:
    """Return the address of this run's text of that key; None where there is none, or pages have no address."""
    if get_task_and_flow_run_ids()[1] is None:
        return None
    with get_client(sync_client=True) as client:
        artifact = _of_this_run(client, key)
    pages = get_current_settings().ui_url
    return f"{pages}/artifacts/artifact/{artifact}" if artifact and pages else None


def inlined(page: Path) -> str:
    """Return a page's markdown with each plot beside it as a data URI, so that it needs no other file.

    Plots are left out of a page that would be too large with them.
    """
    markdown = page.read_text(encoding="utf-8")

    def data_uri(match: re.Match[str]) -> str:
        path = page.with_name(match["file"])
        if path.suffix not in _TYPES or not path.is_file():
            return match[0]
        encoded = base64.b64encode(path.read_bytes()).decode()
        return f"![{match['text']}](data:{_TYPES[path.suffix]};base64,{encoded})"

    whole = re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<file>[\w.-]+)\)", data_uri, markdown)
    return whole if len(whole.encode()) <= LARGEST_MARKDOWN else markdown
