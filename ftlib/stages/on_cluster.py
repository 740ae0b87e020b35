"""The driver of a stage's rows on a Ray cluster: started as a job, it runs the stage with the cluster's workers."""

from __future__ import annotations

from ftlib.errors import ReglageError
from ftlib.on_ray.jobs import drive
from ftlib.stages.data_workers import StagePlan, leave_failure
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.workspace import Workspace


def run(plan: StagePlan, given: Workspace | None = None) -> None:
    """Run the stage, whose output is committed from here. Raises what it raises, which is left beside the plan, too."""
    del given  # the plan names the place, of a folder too
    work = Workspace(plan.work)
    kind = IngestJob if plan.stage == IngestJob.stage else PreprocessJob
    job = kind.model_validate(plan.job)
    try:
        if isinstance(job, IngestJob):
            ingest(job, work)
        else:
            preprocess(job, work)
    except ReglageError as error:
        leave_failure(work, job, error)
        raise


if __name__ == "__main__":
    drive(StagePlan, run)
