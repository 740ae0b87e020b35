"""Tasks that make what leaves the run: report, register."""

from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.report.report import Report
from ftlib.stages import register as _register
from ftlib.stages import report as _report
from ftlib.workspace import Workspace
from tasks.policy import stage_task


@stage_task(hours=1)
def report(job: _report.ReportJob, work: Workspace) -> Report:
    """Write the page of everything that the run measured."""
    return _report.report(job, work)


@stage_task(hours=6, cached=False)
def register(job: _register.RegisterJob, work: Workspace) -> ModelVersion | Refusal:
    """Publish the chosen candidate as a verified version, or return a gate's refusal."""
    return _register.register(job, work)
