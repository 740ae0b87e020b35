"""Preferences by written principles: a model drafts, a critic criticises, and what is revised is preferred."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.config import Name, Split
from ftlib.data.datasets import Ledger, PreparedDataset, RawDataset, SplitFacts
from ftlib.data.formats import Format
from ftlib.data.formats.pairs_of_answers import CHOSEN, PROMPT, REJECTED, pairs_of_answers
from ftlib.data.prepared import SPLITS, PreparedRow, split_file, split_writer
from ftlib.data.processor import Processor
from ftlib.data.prompts import Prompt, prompts_of
from ftlib.data.row_reasons import reasons
from ftlib.data.rows import Dropped, Value
from ftlib.data.supervision import Audit
from ftlib.errors import DataError
from ftlib.evaluation.principle_facts import PrincipleFacts, RevisedDataset
from ftlib.fingerprint import Job, digest, file_digest
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.progress import note
from ftlib.stages.score import SCORED
from ftlib.training.compute import Compute
from ftlib.training.rewards import Reward
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from ftlib.evaluation.revisions import Drafted, RevisePlan

PRINCIPLE = "principle"
"""The slice that names the principle of a pair."""


class ReviseJob(Job):
    """Which model revises drafts to which prompts, by which principles and whose critique."""

    stage: ClassVar[str] = "revise"
    version: ClassVar[int] = 2
    runtime: ClassVar[frozenset[str]] = frozenset({"name"})

    name: Name
    """What the recipe calls the dataset."""
    model: Checkpoint
    """Drafts and revises; the phase starts from it."""
    critic: FoundModel | Checkpoint | None
    """None: the model itself."""
    data: PreparedDataset
    raw: RawDataset
    """What `data` was prepared of: prompts as they were written."""
    format: Format
    principles: tuple[str, ...]
    critique: str
    revision: str
    max_new_tokens: int
    temperature: float
    keep_cut: bool
    checkers: dict[int, Reward]
    seed: int
    compute: Compute


def revise(job: ReviseJob, work: Workspace) -> RevisedDataset:
    """Return pairs of a revision, chosen, and its draft, rejected, for the rows that train or select.

    A row's id is that of its prompt and the place of its principle, which its slice `principle` says. Beside the splits
    lie `revisions.jsonl`, what was written and what became of it, and `asked.json`, what was asked. Resumable by parts
    of some prompts. Raises DataError where no draft was revised, RecipeError for a checker that fails, ModelError for a
    model that cannot write, or has no chat template.
    """
    return work.once(job, RevisedDataset, lambda folder: _build(job, folder, work), resumable=True)


def _build(job: ReviseJob, folder: Path, work: Workspace) -> RevisedDataset:
    """Ask the models about all prompts in parts, and write the pairs and what was said."""
    from ftlib.evaluation.revision_prompts import write_prompts
    from ftlib.evaluation.revisions import RevisePlan
    from ftlib.kinds.loading import load_processor

    processor = load_processor(job.model.folder)
    layout = pairs_of_answers(job.format, processor)
    prompts = prompts_of(job.raw, job.data, job.format, SCORED)
    file = folder / "prompts.arrow"
    write_prompts(file, prompts, layout, processor)
    asked = {"principles": job.principles, "critique": job.critique, "revision": job.revision}
    (folder / "asked.json").write_text(json.dumps(asked, ensure_ascii=False, indent=1), encoding="utf-8")
    plan = RevisePlan(
        name=job.name,
        model=job.model,
        critic=job.critic,
        layout=layout,
        prompts=_for_every_node(file, work) if job.compute.infers_on_ray else str(file),
        count=len(prompts),
        principles=job.principles,
        critique=job.critique,
        revision=job.revision,
        max_new_tokens=job.max_new_tokens,
        temperature=job.temperature,
        keep_cut=job.keep_cut,
        revises=True,
        seed=job.seed,
        folder=str(folder / "parts"),
        fingerprint=job.fingerprint,
        compute=job.compute,
    )
    (folder / "parts").mkdir(exist_ok=True)
    drafted = write_drafts(plan, work)
    pairs = _Pairs(job, layout, processor)
    facts: dict[Split, SplitFacts] = {split: pairs.write(folder, split, prompts, drafted) for split in SPLITS}
    pairs.write_log(folder / "revisions.jsonl", prompts, drafted)
    rows_in, rows = len(prompts) * len(job.principles), sum(one.rows for one in facts.values())
    note(
        "revise", f"{rows:,} pairs of {rows_in:,} drafts under a principle; {reasons(pairs.dropped) or 'none left out'}"
    )
    if not facts["train"].rows:
        raise DataError(
            f"revise {job.name}: no draft was revised into something else: {reasons(pairs.dropped)}; give another "
            "critic or principles, raise max_new_tokens where answers were cut, or set keep_cut"
        )
    told = pairs.facts(prompts, drafted)
    shutil.rmtree(folder / "parts")  # last: until here a killed run goes on from them
    return RevisedDataset(
        content=digest([job.data.digest(), *(file_digest(split_file(folder, split)) for split in SPLITS)]),
        kind=layout.yields,
        labels=(),
        splits=facts,
        ledger=Ledger(rows_in=rows_in, kept=rows, dropped=dict(sorted(pairs.dropped.items()))),
        leaked=job.data.leaked,
        profile=job.data.profile,
        tokenizer=job.data.tokenizer,
        audit=Audit(),
        principles=told,
    )


def _for_every_node(file: Path, work: Workspace) -> str:
    """Return a reference of a file by which every node reads it."""
    if work.store is None:
        return str(file)
    alone = file.with_suffix(".carried")
    shutil.rmtree(alone, ignore_errors=True)
    alone.mkdir()
    shutil.copyfile(file, alone / file.name)
    uri = work.carry(alone)
    shutil.rmtree(alone)
    return f"{uri}/{file.name}"


def write_drafts(plan: RevisePlan, work: Workspace) -> list[Drafted]:
    """Have a plan answered here or by Ray workers, and return what was said."""
    if plan.compute.infers_on_ray:
        from ftlib.on_ray.evaluator import infer

        infer(plan, work)
    else:
        from ftlib.evaluation.inference import infer_here

        infer_here(plan)
    return plan.drafted()


class _Pairs:
    """Rows of revisions and drafts as they are written, and what is counted of them."""

    def __init__(self, job: ReviseJob, layout: Format, processor: Processor) -> None:
        self._job, self._layout, self._processor = job, layout, processor
        self.dropped: Counter[str] = Counter()
        self._kept: Counter[int] = Counter()

    def write(self, folder: Path, split: Split, prompts: Sequence[Prompt], drafted: Sequence[Drafted]) -> SplitFacts:
        """Write a split's pairs; of the test split there are none."""
        rows: list[PreparedRow] = []
        for prompt, one in zip(prompts, drafted, strict=True):
            if prompt.split != split:
                continue
            for judged in one.judged:
                if judged.outcome != "revised":
                    self.dropped[str(judged.outcome)] += 1
                    continue
                row = self._row(prompt, one.draft, judged.revision or "", judged.principle)
                if isinstance(row, Dropped):
                    self.dropped[row.reason] += 1
                else:
                    self._kept[judged.principle] += 1
                    rows.append(row)
        inputs = self._layout.inputs(self._processor)
        with split_writer(split_file(folder, split), self._layout.yields, (PRINCIPLE,), inputs) as writer:
            writer.write(rows)
        sizes = [len(row.inputs["input_ids"]) for row in rows]
        supervised = sum(row.supervised for row in rows)
        longest = max(sizes, default=0)
        return SplitFacts(rows=len(rows), tokens=sum(sizes), supervised=supervised, truncated=0, longest=longest)

    def _row(self, prompt: Prompt, draft: str, revision: str, principle: int) -> PreparedRow | Dropped:
        asked: Value = prompt.turns[0]["content"] if self._layout.prompting else [*prompt.turns]
        example = self._layout.example({PROMPT: asked, CHOSEN: revision, REJECTED: draft})
        if isinstance(example, Dropped):
            return example
        (encoded,) = self._layout.encode([example], self._processor)
        if encoded.dropped is not None:
            return encoded.dropped
        (piece,) = encoded.pieces
        name, told = f"{prompt.row_id}-{principle}", (self._job.principles[principle],)
        return PreparedRow(name, piece.inputs, piece.target, told, piece.supervised)

    def write_log(self, path: Path, prompts: Sequence[Prompt], drafted: Sequence[Drafted]) -> None:
        """Write what was said of every draft under every principle."""
        with path.open("w", encoding="utf-8") as stream:
            for prompt, one in zip(prompts, drafted, strict=True):
                for judged in one.judged:
                    told: Mapping[str, object] = {
                        "row_id": prompt.row_id,
                        "split": prompt.split,
                        **judged.model_dump(),
                        "principle": self._job.principles[judged.principle],
                        "draft": one.draft,
                    }
                    stream.write(json.dumps(told, ensure_ascii=False) + "\n")

    def facts(self, prompts: Sequence[Prompt], drafted: Sequence[Drafted]) -> tuple[PrincipleFacts, ...]:
        """Return what each principle made of the drafts."""
        from ftlib.evaluation.principle_shares import counted_kept, drafts_keep, revisions_keep

        return tuple(
            PrincipleFacts(
                principle=principle,
                by="checker" if number + 1 in self._job.checkers else "critic",
                drafts=counted_kept(drafts_keep(drafted, prompts, number, self._job.checkers)),
                revisions=counted_kept(revisions_keep(drafted, prompts, number, self._job.checkers)),
                pairs=self._kept[number],
                outcomes=dict(sorted(Counter(str(one.judged[number].outcome) for one in drafted).items())),
            )
            for number, principle in enumerate(self._job.principles)
        )
