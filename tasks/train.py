"""Weights: the base model with its head, maybe pruned, then one phase after another; and what frozen models say."""

from ftlib.data.datasets import PreparedDataset
from ftlib.evaluation.principle_facts import RevisedDataset, Upheld
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages import answer as _answer
from ftlib.stages import base as _base
from ftlib.stages import fisher as _fisher
from ftlib.stages import prune as _prune
from ftlib.stages import quantize as _quantize
from ftlib.stages import quote as _quote
from ftlib.stages import revise as _revise
from ftlib.stages import score as _score
from ftlib.stages import thin as _thin
from ftlib.stages import train as _train
from ftlib.stages import uphold as _uphold
from ftlib.training.fisher.record import Fisher
from ftlib.workspace import Workspace
from tasks.policy import stage_task


@stage_task(hours=1)
def base(job: _base.BaseJob, work: Workspace) -> Checkpoint:
    """Give the base model the head that the objective needs."""
    return _base.base(job, work)


@stage_task(hours=12)
def prune(job: _prune.PruneJob, work: Workspace) -> Checkpoint:
    """Remove the base model's least influential layers."""
    return _prune.prune(job, work)


@stage_task(hours=6)
def quantize(job: _quantize.QuantizeJob, work: Workspace) -> Checkpoint:
    """Round a checkpoint's linear layers to four bits."""
    return _quantize.quantize(job, work)


@stage_task(hours=1)
def thin(job: _thin.ThinJob, work: Workspace) -> PreparedDataset:
    """Take a share of a dataset's training rows, for a learning curve."""
    return _thin.thin(job, work)


@stage_task(hours=24)
def answer(job: _answer.AnswerJob, work: Workspace) -> PreparedDataset:
    """Have a frozen model write the answers that a phase learns."""
    return _answer.answer(job, work)


@stage_task(hours=24)
def revise(job: _revise.ReviseJob, work: Workspace) -> RevisedDataset:
    """Have a model revise its drafts by written principles: the pairs that a phase learns."""
    return _revise.revise(job, work)


@stage_task(hours=24)
def uphold(job: _uphold.UpholdJob, work: Workspace) -> Upheld:
    """Count the answers that keep the principles, before a phase and after it."""
    return _uphold.uphold(job, work)


@stage_task(hours=24)
def score(job: _score.ScoreJob, work: Workspace) -> PreparedDataset:
    """Compute a frozen model's numbers for every row that trains."""
    return _score.score(job, work)


@stage_task(hours=6)
def quote(job: _quote.QuoteJob, work: Workspace) -> PreparedDataset:
    """Put each row's prompt beside its tokens, as text, for a reward or a judge."""
    return _quote.quote(job, work)


@stage_task(hours=24)
def fisher(job: _fisher.FisherJob, work: Workspace) -> Fisher:
    """Measure which weights some rows need, where a phase starts."""
    return _fisher.fisher(job, work)


@stage_task(hours=None)
def train(job: _train.TrainJob, work: Workspace) -> Checkpoint:
    """Train one phase, from a checkpoint to a checkpoint. A retry goes on from its last step."""
    return _train.train(job, work)
