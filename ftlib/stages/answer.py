"""A frozen model's answers to every row that trains, written once: a prepared dataset with them in the rows' place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

from ftlib.config import Name
from ftlib.data.datasets import PreparedDataset, SplitFacts
from ftlib.data.prepared import SPLITS, split_file
from ftlib.errors import DataError
from ftlib.evaluation.room import check_room
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.companion import check_companion
from ftlib.progress import note
from ftlib.stages.score import SCORED
from ftlib.training.compute import Compute
from ftlib.workspace import Workspace


class AnswerJob(Job):
    """Which model writes answers to which rows, and how."""

    stage: ClassVar[str] = "answer"
    version: ClassVar[int] = 1
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: Name
    """What the recipe calls the dataset."""
    model: FoundModel | Checkpoint
    data: PreparedDataset
    tokenizer: str
    """The digest of the tokenizer of the model that will train on them."""
    max_new_tokens: int
    num_beams: int
    compute: Compute


def answer(job: AnswerJob, work: Workspace) -> PreparedDataset:
    """Return the dataset with what the model writes after each prompt in place of the row's own answer.

    Of a chat that is the last turn's. What is written is the most probable token at each place, or what several beams
    find; one that came to its end within `max_new_tokens` teaches the end too. Test rows keep their own answers. Raises
    ModelError for a model with another tokenizer, DataError where a prompt leaves no room, or nothing was written.
    """
    return work.once(job, PreparedDataset, lambda folder: _build(job, folder, work), resumable=True)


def _build(job: AnswerJob, folder: Path, work: Workspace) -> PreparedDataset:
    """Ask the model about every split that is learnt or selected by, and copy the test split as it is."""
    from ftlib.evaluation.inference import infer_here
    from ftlib.evaluation.written_answers import WritePlan
    from ftlib.models.limits import limits_of

    check_companion(f"answer {job.name}", job.model, job.tokenizer, ())
    for split in SCORED:
        file = split_file(job.data.path, split)
        where = f"answers to {job.name}"
        check_room(where, job.max_new_tokens, file, lambda: limits_of(job.model.folder).positions)
    for split in SPLITS:
        if split not in SCORED:
            shutil.copyfile(split_file(job.data.path, split), split_file(folder, split))
    plan = WritePlan(
        name=job.name,
        model=job.model,
        data=job.data,
        splits=SCORED,
        max_new_tokens=job.max_new_tokens,
        num_beams=job.num_beams,
        folder=str(folder),
        fingerprint=job.fingerprint,
        compute=job.compute,
    )
    if job.compute.infers_on_ray:
        from ftlib.on_ray.evaluator import infer

        infer(plan, work)
    else:
        infer_here(plan)
    facts = {split: _facts(split_file(folder, split), job.data.splits[split]) for split in SCORED}
    if not facts["train"].rows:
        raise DataError(f"answer {job.name}: the model wrote nothing to learn for any row; raise max_new_tokens")
    rows = sum(one.rows for one in facts.values())
    of = sum(job.data.splits[split].rows for split in SCORED)
    tokens = sum(one.supervised for one in facts.values())
    note("answer", f"{rows:,} of {of:,} rows of {job.name} were answered, {tokens / max(1, rows):.1f} tokens each")
    content = digest([job.data.digest(), *(file_digest(split_file(folder, split)) for split in SCORED)])
    return job.data.model_copy(update={"content": content, "splits": {**job.data.splits, **facts}})


def _facts(file: Path, before: SplitFacts) -> SplitFacts:
    from ftlib.kinds.open_split import open_split

    split = open_split(file, ())
    return before.model_copy(
        update={
            "rows": len(split),
            "tokens": int(split.sizes.sum()),
            "supervised": int(split.supervised.sum()),
            "longest": int(split.sizes.max(initial=0)),
        }
    )
