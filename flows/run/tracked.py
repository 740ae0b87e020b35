"""What a run tells its trackers: which training begins where, what was measured, how it ended."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager

from flows.pages.finetune_form import Tracking
from ftlib.artifacts import Artifact
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import is_on_request
from ftlib.evaluation.measured import EvalReport
from ftlib.recipe.recipe import Recipe
from ftlib.registry.outcome import ModelVersion, Refusal
from ftlib.stages.step import Step
from ftlib.tracking.follower import Follower, Tracker
from ftlib.tracking.mlflow_run import MlflowRun
from ftlib.tracking.tensorboard import TensorBoard
from ftlib.workspace import Workspace
from tasks.runner import Runner


@contextmanager
def tracked(
    tracking: Tracking,
    r: Recipe,
    work: Workspace,
    made: Callable[[Step, Artifact], object],
    begun: Callable[[Step], object],
) -> Generator[Runner]:
    """Give a runner whose steps trackers hear of, until the block is over; `made` and `begun` hear of them as well.

    Raises RecipeError for a tracker that cannot be.
    """
    trackers = _trackers(tracking)
    if not trackers:
        yield Runner(work, r.compute, made, begun)
        return
    follower = Follower(r, trackers)

    def begins(step: Step) -> None:
        begun(step)
        if step.job is not None and step.job.stage == "train":
            follower.trains(step.which, step.job.fingerprint, work.folder(step.job))

    def heard(step: Step, artifact: Artifact) -> None:
        _tell(follower, step, artifact)
        made(step, artifact)

    follower.start()
    try:
        yield Runner(work, r.compute, heard, begins, follower.entered)
    except BaseException as error:
        follower.end("killed" if is_on_request(error) else "failed")
        raise
    follower.end("finished")


def _tell(follower: Follower, step: Step, artifact: Artifact) -> None:
    match artifact:
        case PreparedDataset() if step.job is not None and step.job.stage == "preprocess":
            follower.prepared(step.which, artifact.content)
        case EvalReport():
            follower.measured(artifact)
        case ModelVersion():
            follower.published(f"{artifact.name}@{artifact.version}")
        case Refusal():
            follower.published(f"refused: {'; '.join(artifact.reasons)}")
        case _:
            pass


def _trackers(tracking: Tracking) -> list[Tracker]:
    trackers: list[Tracker] = []
    if folder := tracking.tensorboard or os.environ.get("REGLAGE_TENSORBOARD"):  # `reglage up` shows that one
        trackers.append(TensorBoard(folder))
    if tracking.mlflow:
        trackers.append(MlflowRun(tracking.mlflow))
    return trackers
