"""Tasks that make splits of a source's rows: ingest, preprocess; and before them the tokens that rows are made of."""

from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.stages import add_tokens as _add_tokens
from ftlib.stages import ingest as _ingest
from ftlib.stages import preprocess as _preprocess
from ftlib.workspace import Workspace
from tasks.policy import stage_task


@stage_task(hours=1)
def add_tokens(job: _add_tokens.AddTokensJob, work: Workspace) -> _add_tokens.WithTokens:
    """Give the base model the tokens that the recipe adds."""
    return _add_tokens.add_tokens(job, work)


@stage_task(hours=6)
def ingest(job: _ingest.IngestJob, work: Workspace) -> RawDataset:
    """Read a source's bytes into a content-addressed snapshot of rows."""
    return _ingest.ingest(job, work)


@stage_task(hours=6)
def preprocess(job: _preprocess.PreprocessJob, work: Workspace) -> PreparedDataset:
    """Make tokenised splits of rows: cleaned, de-duplicated, split, checked for leakage."""
    return _preprocess.preprocess(job, work)
