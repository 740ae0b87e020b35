"""What is planned by stage: which are done, and which are still to do."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flows.planning.facts import StagePlan
from ftlib.artifacts import Artifact
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.merging.candidates import Candidates
from ftlib.models.checkpoint import Checkpoint
from ftlib.stages.ingest import IngestJob, ingest
from ftlib.stages.preprocess import PreprocessJob, preprocess
from ftlib.stages.register import register
from ftlib.stages.step import Step
from ftlib.stages.train import train
from ftlib.training.fisher.record import Fisher
from ftlib.wording import counted
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    pass


@dataclass
class Planner:
    """Looks up what the steps of a run would make; it trains and publishes nothing."""

    work: Workspace
    prepare: bool
    """Make the data that is not there yet: rows and tokens are known only then."""
    stages: list[StagePlan] = field(default_factory=list[StagePlan])
    prepared: dict[str, PreparedDataset] = field(default_factory=dict[str, PreparedDataset])
    trained: dict[str, Checkpoint] = field(default_factory=dict[str, Checkpoint])
    """What trainings left that are done, by the name of the phase."""
    needs_ray: bool = False
    """Whether something that is still to do is done by Ray workers."""

    def look(self, step: Step) -> Artifact | None:
        """Note a step; return what its stage has made, or None if that is still to do."""
        output = self._made(step)
        state = "every run" if step.stage is register else "done" if output else "to do" if step.job else "waits"
        self.stages.append(StagePlan(stage=step.label, state=state, facts=_facts(step, output)))
        self.needs_ray |= step.on_ray and not output
        if isinstance(output, PreparedDataset) and step.stage is preprocess:
            self.prepared[step.which] = output
        if isinstance(output, Checkpoint) and step.stage is train:
            self.trained[output.phase] = output
        return output

    def _made(self, step: Step) -> Artifact | None:
        if step.job is None or step.stage is register:  # the registry is asked every time, and only by who publishes
            return None
        to_prepare = self.prepare and step.stage in (ingest, preprocess)
        return step.stage(step.job, self.work) if to_prepare or self.work.has(step.job) else None

    def done(self, *stages: str) -> bool:
        """Say whether all that some stages have to do is done."""
        return all(stage.state == "done" for stage in self.stages if stage.stage.split()[0] in stages)


def _facts(step: Step, output: Artifact | None) -> str:
    if isinstance(output, RawDataset):
        return counted(output.ledger.kept, "row")
    if isinstance(output, PreparedDataset):
        return ", ".join(f"{name} {facts.rows:,}" for name, facts in output.splits.items()) + " rows"
    if isinstance(output, Candidates):
        return counted(len(output.members), "candidate")
    if isinstance(output, Fisher):
        return counted(output.rows, "row")
    if isinstance(step.job, IngestJob | PreprocessJob) and step.on_ray:
        return counted(step.job.compute.data_workers, "data worker")
    return f"{'' if step.job else 'up to '}{counted(step.candidates, 'candidate')}" if step.candidates else ""
