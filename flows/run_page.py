"""What a run shows on its page in Prefect: how far it is, and at the end the report with its plots."""

import base64
import re
from dataclasses import dataclass, field
from time import monotonic
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_progress_artifact, update_progress_artifact
from prefect.context import TaskRunContext

from ftlib.artifacts import Report
from ftlib.progress import Progress
from ftlib.training.curves import RESTART

EVERY_SECONDS = 5.0
LARGEST_MARKDOWN = 2_000_000
"""Bytes; beyond that the plots are left out, since the page loads the whole artifact."""

_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def artifact_key(*words: str) -> str:
    """Return a key that Prefect accepts: lower case, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(words).lower()).strip("-")


@dataclass
class PageProgress:
    """A progress listener that keeps one number per stage on the run page, written every few seconds at most."""

    run: str
    _shown: dict[str, tuple[UUID, float]] = field(default_factory=dict[str, tuple[UUID, float]])

    def __call__(self, sign: Progress) -> None:
        """Take a sign of life from a stage."""
        if (
            sign.unit == RESTART or sign.total <= 1 or TaskRunContext.get() is None
        ):  # from a thread that belongs to no task
            return
        percent = 100.0 * sign.done / sign.total
        known = self._shown.get(sign.stage)
        if known is None:
            key = artifact_key("progress", self.run, sign.stage)
            created = create_progress_artifact(progress=percent, key=key, description=_facts(sign))
            if isinstance(created, UUID):
                self._shown[sign.stage] = (created, monotonic())
        elif sign.done >= sign.total or monotonic() - known[1] > EVERY_SECONDS:
            update_progress_artifact(artifact_id=known[0], progress=percent, description=_facts(sign))
            self._shown[sign.stage] = (known[0], monotonic())


def show_report(run: str, report: Report) -> None:
    """Put the report's tables and plots on the run page; reports of one recipe form a timeline."""
    create_markdown_artifact(key=artifact_key("report", run), markdown=inlined(report), description=f"Report of {run}")


def inlined(report: Report) -> str:
    """Return the report's markdown with each plot it shows as a data URI, so that the page needs no other file."""
    markdown = (report.path / report.markdown).read_text(encoding="utf-8")

    def data_uri(match: re.Match[str]) -> str:
        path = report.path / match["file"]
        if match["file"] not in report.plots or path.suffix not in _TYPES:
            return match[0]
        encoded = base64.b64encode(path.read_bytes()).decode()
        return f"![{match['text']}](data:{_TYPES[path.suffix]};base64,{encoded})"

    whole = re.sub(r"!\[(?P<text>[^\]]*)\]\((?P<file>[^)]+)\)", data_uri, markdown)
    return whole if len(whole) <= LARGEST_MARKDOWN else markdown


def _facts(sign: Progress) -> str:
    facts = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in sign.facts.items())
    return f"{sign.stage}: {sign.done} of {sign.total} {sign.unit}" + (f" ({facts})" if facts else "")
