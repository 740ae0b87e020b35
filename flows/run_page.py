"""What a run shows on its page in Prefect: how far it is, and at the end the report with its plots."""

import base64
import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId, ArtifactFilterKey
from prefect.context import TaskRunContext
from prefect.logging import get_run_logger
from prefect.settings import get_current_settings
from prefect.utilities.context import get_task_and_flow_run_ids
from rich.text import Text

from flows.progress_lines import facts_line, restart_line, stage_line
from flows.rows_page import rows_markdown
from ftlib.artifacts import Artifact
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.progress import Progress
from ftlib.report.report import Report
from ftlib.stages.step import Step
from ftlib.training.curves import RESTART, STEPS
from ftlib.wording import table
from tasks.runner import STAGE

EVERY_SECONDS = 5.0
EVERY_SHARE = 0.1
"""Of a training's steps: how often the run's log gets a line."""
LARGEST_MARKDOWN = 2_000_000
"""Bytes; beyond that the plots are left out, since the page loads the whole artifact."""

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}
_BAR = 20


def artifact_key(*words: str) -> str:
    """Return a key that Prefect accepts: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


def show_markdown(key: str, markdown: str, description: str) -> None:
    """Put a text on this run's page, in place of what it showed there under that key, also before it was suspended."""
    task_run, run = get_task_and_flow_run_ids()
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
class _Going:
    """A stage that is going on."""

    began: float
    first: int
    """Steps that were done when it was first heard of: a resumed training begins in the middle."""
    facts: dict[str, float] = field(default_factory=dict[str, float])
    """The last of each: a sign of life has the loss of a step or that of a validation."""
    shown: float = 0.0
    logged: float = 0.0


@dataclass
class PageProgress:
    """A progress listener that keeps one text per stage on the run page, and writes the run's log.

    It needs the task's context on the thread that emits (`ftlib.training.curves.follow` carries it there); what
    belongs to no task is left out.
    """

    run: str
    _going: dict[str, _Going] = field(default_factory=dict[str, _Going])

    def __call__(self, sign: Progress) -> None:
        """Take a sign of life from a stage."""
        if sign.unit in (STAGE, RESTART):
            line = stage_line(sign) if sign.unit == STAGE else restart_line(sign)
            get_run_logger().info(re.sub(" {3,}", "  ", Text.from_markup(line).plain))
            return
        if sign.total <= 1 or TaskRunContext.get() is None:
            return
        now, share = monotonic(), sign.done / sign.total
        going = self._going.setdefault(sign.stage, _Going(began=now, first=sign.done))
        going.facts |= sign.facts
        sign, ended = replace(sign, facts=going.facts), sign.done >= sign.total
        if not going.shown or ended or now - going.shown > EVERY_SECONDS:
            going.shown = now
            key = artifact_key("progress", self.run, sign.stage)
            with suppress(httpx.HTTPError):  # a server that is away for a moment must not end a training
                show_markdown(key, progress_markdown(sign, self._left(sign)), progress_line(sign, self._left(sign)))
        if sign.unit == STEPS and (ended or share - going.logged >= EVERY_SHARE):
            going.logged = share
            get_run_logger().info(progress_line(sign, self._left(sign)))

    def _left(self, sign: Progress) -> float | None:
        """Return the seconds that are left at the speed so far, or None where nothing is known of it yet."""
        going = self._going[sign.stage]
        done = sign.done - going.first
        return (sign.total - sign.done) * (monotonic() - going.began) / done if done > 0 else None


def progress_line(sign: Progress, left: float | None) -> str:
    """Say how far a stage is: `train tune 40/85 steps  loss 0.412  samples/s 2.9  2 min left`."""
    words = [f"{sign.stage} {sign.done:,}/{sign.total:,} {sign.unit}", facts_line(sign)]
    return "  ".join(word for word in [*words, _left_words(left) if sign.done < sign.total else ""] if word)


def progress_markdown(sign: Progress, left: float | None) -> str:
    """Return the same as a text that grows with what is known: curves will stand below the table."""
    return "\n\n".join(_progress_parts(sign, left)) + "\n"


def _progress_parts(sign: Progress, left: float | None) -> Iterator[str]:
    share = min(1.0, sign.done / sign.total)
    full = round(share * _BAR)
    yield f"`{'█' * full}{'░' * (_BAR - full)}` **{share:.0%}** of {sign.stage}"
    facts = {"done": f"{sign.done:,} of {sign.total:,} {sign.unit}"}
    facts |= {name.replace("_", " "): f"{value:.4g}" for name, value in sign.facts.items()}
    if left is not None and sign.done < sign.total:
        facts["time"] = _left_words(left)
    yield table([["", "so far"], *map(list, facts.items())])


def _left_words(left: float | None) -> str:
    if left is None:
        return ""
    return f"{left:.0f} s left" if left < 120 else f"{left / 60:.0f} min left"


@dataclass
class RunPage:
    """Puts on the run's page what its stages made, as soon as it is there: where every row went, and the report.

    Reports of one recipe form a timeline.
    """

    run: str
    datasets: Collection[str]
    _raw: dict[str, RawDataset] = field(default_factory=dict[str, RawDataset])
    _prepared: dict[str, PreparedDataset] = field(default_factory=dict[str, PreparedDataset])

    def __call__(self, step: Step, output: Artifact) -> None:
        """Take what a stage made."""
        if isinstance(output, Report):
            show_markdown(
                artifact_key("report", self.run), inlined(output.path / output.markdown), f"Report of {self.run}"
            )
        elif isinstance(output, RawDataset):
            self._raw[step.which] = output
        elif isinstance(output, PreparedDataset):
            self._prepared[step.which] = output
            if self._prepared.keys() == {*self.datasets}:
                rows = rows_markdown(self._raw, self._prepared)
                show_markdown(artifact_key("rows", self.run), rows + "\n", f"Rows of {self.run}")


def report_url(run: str) -> str | None:
    """Return the address of this run's report in Prefect's pages; None where it has none, or they have no address."""
    with get_client(sync_client=True) as client:
        artifact = _of_this_run(client, artifact_key("report", run))
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
    return whole if len(whole) <= LARGEST_MARKDOWN else markdown
