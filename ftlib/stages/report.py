"""Everything a run measured, on one page."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.evaluation.suspects import as_csv
from ftlib.fingerprint import Job
from ftlib.recipe.evidence import Evidence
from ftlib.report import render
from ftlib.report.report import Report
from ftlib.report.suspects import FILE as SUSPECTS
from ftlib.report.suspects import found_suspects
from ftlib.report.whole_page import whole_page
from ftlib.workspace import Workspace


class ReportJob(Job):
    """What the page shows."""

    stage: ClassVar[str] = "report"
    version: ClassVar[int] = 8

    evidence: Evidence


def report(job: ReportJob, work: Workspace) -> Report:
    """Write `report.html` (self-contained), `report.md`, the plots as SVG and PNG, and ids of rows in `suspects.csv`.

    The same records give the same bytes. Raises StorageError if a table of outcomes is gone.
    """

    def build(folder: Path) -> Report:
        page = whole_page(job.evidence, work, folder)
        (folder / "report.html").write_text(render.html(page), encoding="utf-8")
        (folder / "report.md").write_text(render.markdown(page), encoding="utf-8")
        listed = found_suspects(job.evidence, work)
        if listed is not None:
            (folder / SUSPECTS).write_bytes(as_csv({job.evidence.selection.chosen.name: listed}))
        plots = sorted(path.name for path in folder.iterdir() if path.suffix in (".svg", ".png"))
        suspects = "" if listed is None else SUSPECTS
        return Report(html="report.html", markdown="report.md", plots=tuple(plots), suspects=suspects)

    return work.once(job, Report, build)
