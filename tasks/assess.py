"""Tasks that measure and choose: distance, interpolate, batch_norm, evaluate, diverge, select."""

from ftlib.evaluation.measured import EvalReport, KLToStart
from ftlib.evaluation.selection import Selection
from ftlib.merging.candidates import Candidates
from ftlib.stages import batch_norm as _batch_norm
from ftlib.stages import distance as _distance
from ftlib.stages import diverge as _diverge
from ftlib.stages import evaluate as _evaluate
from ftlib.stages import interpolate as _interpolate
from ftlib.stages import select as _select
from ftlib.workspace import Workspace
from tasks.policy import stage_task


@stage_task(hours=1)
def distance(job: _distance.DistanceJob, work: Workspace) -> _distance.Distance:
    """Measure how far a base lies from the model that its tuning is carried to."""
    return _distance.distance(job, work)


@stage_task(hours=1)
def interpolate(job: _interpolate.InterpolateJob, work: Workspace) -> Candidates:
    """Name the points between a phase's start and its end."""
    return _interpolate.interpolate(job, work)


@stage_task(hours=12)
def batch_norm(job: _batch_norm.BatchNormJob, work: Workspace) -> Candidates:
    """Measure the points' own BatchNorm statistics, for models that have such layers."""
    return _batch_norm.batch_norm(job, work)


@stage_task(hours=12)
def evaluate(job: _evaluate.EvaluateJob, work: Workspace) -> EvalReport:
    """Measure candidates on one split of one evaluation."""
    return _evaluate.evaluate(job, work)


@stage_task(hours=12)
def diverge(job: _diverge.DivergeJob, work: Workspace) -> KLToStart:
    """Measure how far candidates' answers are from the start's."""
    return _diverge.diverge(job, work)


@stage_task(hours=1)
def select(job: _select.SelectJob, work: Workspace) -> Selection:
    """Choose the candidate by the recipe's rule."""
    return _select.select(job, work)
