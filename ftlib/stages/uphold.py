"""How many of a model's answers keep written principles, before a phase and after it, on prompts that it never saw."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.config import Name
from ftlib.data.datasets import PreparedDataset, RawDataset
from ftlib.data.formats import Format
from ftlib.data.formats.pairs_of_answers import pairs_of_answers
from ftlib.data.prompts import prompts_of
from ftlib.evaluation.principle_facts import PrincipleFacts, Upheld, UpheldPrinciple
from ftlib.evaluation.significance import mcnemar_p
from ftlib.fingerprint import Job
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.progress import note
from ftlib.stages.revise import write_drafts
from ftlib.training.compute import Compute
from ftlib.training.rewards import Reward
from ftlib.workspace import Workspace


class UpholdJob(Job):
    """Whose answers to hold against which principles."""

    stage: ClassVar[str] = "uphold"
    version: ClassVar[int] = 2

    phase: Name
    before: Checkpoint
    after: Checkpoint
    critic: FoundModel | Checkpoint
    called: str
    """How people call the critic."""
    data: PreparedDataset
    """Its test rows are asked about."""
    raw: RawDataset
    format: Format
    drafted: tuple[PrincipleFacts, ...]
    """What the phase learnt from."""
    critique: str
    max_new_tokens: int
    temperature: float
    checkers: dict[int, Reward]
    seed: int
    compute: Compute


def uphold(job: UpholdJob, work: Workspace) -> Upheld:
    """Return how many answers keep each principle, of the model before the phase and of that after it.

    Both answer the prompts of the test split, with the same random numbers, and one critic judges both where a
    principle has no checker. Raises RecipeError for a checker that fails, ModelError for a model that cannot write.
    """
    return work.once(job, Upheld, lambda folder: _build(job, folder, work), resumable=True)


def _build(job: UpholdJob, folder: Path, work: Workspace) -> Upheld:
    """Have both models answer, and count."""
    import numpy as np

    from ftlib.evaluation.principle_shares import counted_kept

    before, after = (_keep(job, model, folder / name, work) for name, model in _ends(job).items())
    principles: list[UpheldPrinciple] = []
    for facts, first, last in zip(job.drafted, before, after, strict=True):
        kept, keeps = (np.array([one is True for one in said], bool) for said in (first, last))
        principles.append(
            UpheldPrinciple(
                principle=facts.principle,
                by=facts.by,
                before=counted_kept(first),
                after=counted_kept(last),
                gained=int((keeps & ~kept).sum()),
                lost=int((kept & ~keeps).sum()),
                p_value=mcnemar_p(keeps, kept),
            )
        )
    for one in principles:
        if one.before.answers:
            note("uphold", f"{one.before.kept} then {one.after.kept} of {one.before.answers}: {one.principle}")
    return Upheld(phase=job.phase, critic=job.called, drafted=job.drafted, principles=tuple(principles))


def _ends(job: UpholdJob) -> dict[str, Checkpoint]:
    return {"before": job.before, "after": job.after}


def _keep(job: UpholdJob, model: Checkpoint, folder: Path, work: Workspace) -> list[list[bool | None]]:
    """Return, for each principle, which of a model's answers keep it."""
    from ftlib.evaluation.principle_shares import drafts_keep
    from ftlib.evaluation.revision_prompts import write_prompts
    from ftlib.evaluation.revisions import RevisePlan
    from ftlib.kinds.loading import load_processor

    processor = load_processor(job.before.folder)
    layout = pairs_of_answers(job.format, processor)
    prompts = prompts_of(job.raw, job.data, job.format, ("test",))
    folder.mkdir(exist_ok=True)
    file = folder / "prompts.arrow"
    write_prompts(file, prompts, layout, processor)
    plan = RevisePlan(
        name=f"{job.phase} {folder.name}",
        model=model,
        critic=job.critic,
        layout=layout,
        prompts=str(file),
        count=len(prompts),
        principles=tuple(one.principle for one in job.drafted),
        critique=job.critique,
        revision="",
        max_new_tokens=job.max_new_tokens,
        temperature=job.temperature,
        keep_cut=True,
        revises=False,
        seed=job.seed,
        folder=str(folder),
        fingerprint=job.fingerprint,
        compute=job.compute,
    )
    drafted = write_drafts(plan, work) if prompts else []
    return [drafts_keep(drafted, prompts, number, job.checkers) for number in range(len(job.drafted))]
