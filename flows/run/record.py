"""What a run leaves about itself: `runs/<recipe name>/run.json`."""

import json
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from uuid import uuid4

import ftlib
from ftlib.config import Config
from ftlib.costs.prices import Cost
from ftlib.published.work_roots import note_publication
from ftlib.recipe.evidence import Evidence
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.render import html_with_outcome
from ftlib.report.report import Report
from ftlib.wording import dated
from ftlib.workspace import Workspace, add, overwrite
from tasks.runner import StageRun

LIBRARIES = ("torch", "transformers", "peft", "datasets", "ray", "prefect", "pydantic", "numpy", "scikit-learn")


class RunRecord(Config):
    """Every record of a run, and where its time went."""

    evidence: Evidence
    steps: tuple[StageRun, ...]
    report: Report
    result: ModelVersion | Refusal
    versions: dict[str, str]
    wall_seconds: float = 0.0
    """From the start of the command, or of the flow where there was no command, to the end of the last stage."""

    cost: Cost | None = None
    """What this run used, by the prices of the day; None where there were none."""

    @property
    def work_seconds(self) -> float:
        """Return the seconds that the stages themselves took in this run."""
        return sum(step.work_seconds for step in self.steps)

    @property
    def overhead_seconds(self) -> float:
        """Return the seconds of everything else: imports, Prefect, Ray, reading records."""
        return max(0.0, self.wall_seconds - self.work_seconds)  # stages may have waited for another run's

    def all_done_before(self) -> bool:
        """Say whether an earlier run had made everything."""
        return all(step.done_before for step in self.steps)

    def write(self, work: Workspace) -> Path:
        """Write `run.json` and `report.html`, each whole or not at all; return the local path of the page."""
        name = self.evidence.recipe.name
        text = self.report.local(Path(self.report.html)).read_text(encoding="utf-8")
        page = html_with_outcome(text, dated(self.result.line())).encode()
        written = overwrite(work, f"runs/{name}/report.html", page)
        if listed := self.report.suspects:
            overwrite(work, f"runs/{name}/{listed}", self.report.local(Path(listed)).read_bytes())
        remember(work, name, self.steps)  # before what is read of it: a collector that sees one sees the other
        if isinstance(self.result, ModelVersion):
            note_publication(work, name, self.evidence.recipe.publish.to, self.result)
        overwrite(work, f"runs/{name}/run.json", self.model_dump_json(indent=1).encode())
        return written


def remember(work: Workspace, recipe: str, steps: Sequence[StageRun]) -> None:
    """Add what a run used to its recipe's history, of which `reglage work gc` keeps the last `--keep-runs`."""
    used = {"steps": [{"stage": step.stage, "fingerprint": step.fingerprint} for step in steps]}
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    add(work, f"runs/{recipe}/history/{at}-{uuid4().hex[:8]}.json", json.dumps(used).encode())


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of what computes the result."""
    return {"python": platform.python_version(), "reglage": ftlib.__version__} | {
        name: installed for name in LIBRARIES if (installed := installed_version(name))
    }


def installed_version(name: str) -> str | None:
    """Return a distribution's version, or None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
