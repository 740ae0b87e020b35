"""One phase of training: a checkpoint to a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from ftlib.config import Name
from ftlib.data.datasets import PreparedDataset
from ftlib.errors import ModelError
from ftlib.fingerprint import Job
from ftlib.models.checkpoint import Checkpoint, FoundModel, model_in
from ftlib.models.folder import config_digest, labels_of, weights_digest
from ftlib.training.compute import Compute
from ftlib.training.mixture import Mixture
from ftlib.training.phase import Phase
from ftlib.training.plan import Part, Plan
from ftlib.wording import some
from ftlib.workspace import Workspace


class TrainJob(Job):
    """What to train, from where, on what. `precision` is the phase's, with `auto` resolved.

    The phase's companions are in `companions`, as the bytes they are, and not in `phase`, as the paths they were at.
    """

    stage: ClassVar[str] = "train"
    version: ClassVar[int] = 2
    introduced: ClassVar[Mapping[str, object]] = {"companions": {}}

    start: Checkpoint
    data: PreparedDataset | Mixture
    phase: Phase
    precision: Literal["fp32", "bf16"]
    seed: int
    compute: Compute
    companions: dict[Name, FoundModel | Checkpoint] = {}

    @property
    def parts(self) -> tuple[PreparedDataset, ...]:
        """Return the datasets that it trains on, in the order of the phase's parts."""
        return self.data.parts if isinstance(self.data, Mixture) else (self.data,)

    def needs_ray(self) -> bool:
        """Say whether this phase runs on Ray workers."""
        return runs_on_ray(self.phase, self.compute)


def runs_on_ray(phase: Phase, compute: Compute) -> bool:
    """Say whether a phase runs on Ray workers; what is solved for, without steps, never does."""
    return compute.workers > 0 and phase.tuning.takes_steps


def check_companions(job: TrainJob) -> None:
    """Raise ModelError for a companion that reads other tokens than the model, or answers with other labels."""
    for name, companion in job.companions.items():
        where = f"phases[{job.phase.name}].companions.{name}"
        if companion.tokenizer != job.start.tokenizer:
            raise ModelError(
                f"{where}: its tokenizer is not the model's, and rows are tokenised once, for the model; "
                "choose a companion with the same tokenizer files"
            )
        labels = companion.labels if isinstance(companion, Checkpoint) else labels_of(companion.folder)
        if job.start.labels and labels != job.start.labels:
            raise ModelError(
                f"{where}: its labels are {some(labels) or 'none'}, the model's {some(job.start.labels)}, in that "
                "order; choose a companion with a head for the same ones"
            )


def train(job: TrainJob, work: Workspace) -> Checkpoint:
    """Train one phase, from the last checkpoint if an earlier attempt was killed.

    Raises TrainingError on a broken invariant, TransientError if workers were lost too often.
    """
    return work.once(job, Checkpoint, lambda folder: _build(job, folder), resumable=True)


def _build(job: TrainJob, folder: Path) -> Checkpoint:
    from ftlib.training.worker import outcome, work

    check_companions(job)
    compute = job.compute if job.needs_ray() else job.compute.model_copy(update={"workers": 0})
    plan = Plan(
        fingerprint=job.fingerprint,
        start=str(job.start.folder),
        fresh_head=job.start.fresh_head,
        parts=tuple(
            Part(name=name, folder=part.uri, share=share)
            for (name, share), part in zip(job.phase.parts.items(), job.parts, strict=True)
        ),
        run=str(folder),
        kind=job.parts[0].kind,
        labels=job.start.labels,
        phase=job.phase,
        precision=job.precision,
        seed=job.seed,
        compute=compute,
        companions={name: str(companion.folder) for name, companion in job.companions.items()},
    )
    if job.needs_ray():
        from ftlib.on_ray.trainer import fit

        fit(plan)
    else:
        work(plan)
    facts = outcome(plan)
    for leftover in ("checkpoints", "ray"):
        shutil.rmtree(folder / leftover, ignore_errors=True)
    (folder / "best.safetensors").unlink(missing_ok=True)
    (folder / "plan.json").write_text(json.dumps(plan.model_dump(mode="json"), indent=1))
    return Checkpoint(
        weights=weights_digest(model_in(folder)),
        parent=job.start.weights,
        tokenizer=job.start.tokenizer,
        config=config_digest(model_in(folder)),
        phase=job.phase.name,
        fresh_head=False,
        labels=job.start.labels,
        parameters=job.start.parameters,
        trained_parameters=int(facts.pop("trained_parameters")),
        facts=facts,
    )
