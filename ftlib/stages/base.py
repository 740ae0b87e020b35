"""The base model with the head the objective needs: where the first phase starts."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ftlib.artifacts import below
from ftlib.config import BatchKind, Config, Name
from ftlib.data.identity import identity
from ftlib.errors import ModelError
from ftlib.fingerprint import Job, digest
from ftlib.kinds.kind import KINDS
from ftlib.models.adapter import FILES, adapter_digest, write_base
from ftlib.models.checkpoint import Base, Checkpoint, FoundModel, Task, model_in, task_in
from ftlib.models.folder import config_digest, files_digest, labels_of, processor_digest, read_config, weights_digest
from ftlib.models.parameter_names import layer_of
from ftlib.models.shards import write_shared_shards
from ftlib.progress import note
from ftlib.stages.quantize import write_rounded
from ftlib.wording import some
from ftlib.workspace import Workspace

if TYPE_CHECKING:
    from torch import nn


class TaskHead(Config):
    """What one of several tasks wants of its head."""

    kind: BatchKind
    labels: tuple[str, ...]


class BaseJob(Job):
    """Which model, with a head for which labels. A head the model already has for just this is kept, and no other."""

    stage: ClassVar[str] = "base"
    version: ClassVar[int] = 3
    introduced: ClassVar[Mapping[str, object]] = {"tasks": {}}

    model: FoundModel
    kind: BatchKind
    labels: tuple[str, ...]
    seed: int
    tasks: dict[Name, TaskHead] = {}
    """Of several tasks, each one's head; `kind` is the first one's then, and `labels` are none."""

    def of_task(self, task: str) -> BaseJob:
        """Return the job of one task alone, whose head is drawn from a seed of its own."""
        head, place = self.tasks[task], sorted(self.tasks).index(task)
        drawn = {"kind": head.kind, "labels": head.labels, "seed": self.seed + place}
        return self.model_copy(update={"tasks": {}, **drawn})


def base(job: BaseJob, work: Workspace) -> Checkpoint:
    """Return the base model as a checkpoint, whose config names the token that rows are filled up with.

    An adapter is copied as it is, and must have that head. Raises ModelError if more than its head would be random, if
    there is no such token, or if an answer would depend on it.
    """
    if job.tasks:
        return work.once(job, Checkpoint, lambda folder: _build_tasks(job, folder))
    if job.model.base is None:
        return work.once(job, Checkpoint, lambda folder: _build(job, folder))
    made = work.once(job, Checkpoint, lambda folder: _build_adapter(job, folder, work.uri(job)))
    if made.base and job.model.base.quantization:
        rounded = _rounded_in(made.uri)
        return made.model_copy(update={"base": made.base.model_copy(update={"name": rounded, "uri": rounded})})
    return made.model_copy(update={"base": job.model.base})  # which says where the base is today


def _rounded_in(uri: str) -> str:
    """Return where the stage keeps the base of an adapter that was trained over it in four bits."""
    return below(uri, model_in(Path("base")))


def _build(job: BaseJob, folder: Path) -> Checkpoint:
    """Load the found model, give it the head that the rows want, and write it with what makes its inputs."""
    from ftlib.kinds.loading import head_modules
    from ftlib.kinds.writing import save_model

    model, labels, missing = _with_head(job)
    save_model(model, model_in(folder), labels, job.model.folder)
    _check_processor(job, model_in(folder))
    return Checkpoint(
        weights=weights_digest(model_in(folder)),
        parent=None,
        tokenizer=job.model.tokenizer,
        config=config_digest(model_in(folder)),
        phase="base",
        fresh_head=any(name.split(".")[0] in head_modules(model) for name in missing),
        labels=labels,
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=0,
    )


def _with_head(job: BaseJob) -> tuple[nn.Module, tuple[str, ...], set[str]]:
    """Return the found model with the head that the rows want, its labels, and which parameters are random."""
    import torch

    from ftlib.kinds.loading import head_modules, load_with_gaps, with_fresh_head

    source, kind = job.model.folder, KINDS[job.kind]
    head = kind.head()
    keeps = _knows(source, head.config(job.labels), job)
    labels = labels_of(source) if keeps and job.labels else job.labels
    torch.manual_seed(job.seed)
    model, missing = load_with_gaps(source, job.kind, **head.config(labels))
    if not kind.vocabulary and not keeps:
        missing |= with_fresh_head(model)
    heads = head_modules(model)  # a detector's have layers of their own
    _check_gaps(job, {name for name in missing if kind.language or name.split(".")[0] not in heads})
    if kind.vocabulary and missing:
        note("base", f"{job.model.name} has no head for {kind.title.lower()}: it begins fresh, {_tied(model)}")
    _check_padding(model, job)
    return model, labels, missing


def _check_processor(job: BaseJob, folder: Path) -> None:
    if processor_digest(folder) != job.model.tokenizer:
        raise ModelError(
            f"{job.model.uri}: image processor or tokenizer files changed or vanished since the run started; run again"
        )


def _build_tasks(job: BaseJob, folder: Path) -> Checkpoint:
    """Write a stock model for each task: the body, and the task's head."""
    from ftlib.kinds.loading import head_modules
    from ftlib.kinds.task_model import TaskModel
    from ftlib.kinds.writing import SHARD_SIZE, save_model

    if job.model.base is not None:
        raise ModelError(
            f"{job.model.name} is an adapter, and several tasks need a body of their own; start from a model"
        )
    made = {task: _with_head(job.of_task(task)) for task in sorted(job.tasks)}
    model = TaskModel({task: one for task, (one, _, _) in made.items()})  # what is random of the body is so once
    folders = {task: model_in(task_in(folder, task)) for task in made}
    for task, (one, labels, _) in made.items():
        save_model(one, folders[task], labels, job.model.folder)
        _check_processor(job, folders[task])
    write_shared_shards([*folders.values()], SHARD_SIZE)
    tasks = tuple(
        Task(
            name=task,
            kind=job.tasks[task].kind,
            labels=labels,
            weights=weights_digest(folders[task]),
            parent=None,
            config=config_digest(folders[task]),
            fresh_head=any(name.split(".")[0] in head_modules(one) for name in missing),
        )
        for task, (one, labels, missing) in made.items()
    )
    return Checkpoint(
        weights=digest([task.weights for task in tasks]),
        parent=None,
        tokenizer=job.model.tokenizer,
        phase="base",
        fresh_head=any(task.fresh_head for task in tasks),
        labels=(),
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=0,
        tasks=tasks,
    )


def _build_adapter(job: BaseJob, folder: Path, final: str) -> Checkpoint:
    """Hand an adapter version on as it is, over its own base: its head must fit the rows already.

    A base in four bits is rounded here, once: what follows finds it in fp32 and in four bits.
    """
    from ftlib.kinds.loading import load, unread_with_gaps
    from ftlib.kinds.writing import copy_beside

    source, base, target = job.model.folder, job.model.base, model_in(folder)
    assert base is not None
    labels = labels_of(source) if job.labels else ()
    if not _knows(source, KINDS[job.kind].head().config(job.labels), job):
        raise ModelError(
            f"{job.model.name} is an adapter whose head answers {', '.join(labels) or 'something else'}, and asked is "
            f"{', '.join(job.labels) or job.kind}: a head of its own needs a model to stand on, so start from "
            f"{base.name}"
        )
    target.mkdir()
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    copy_beside(source, target)
    if base.quantization:
        rounded = Path(_rounded_in(str(folder)))
        write_rounded(unread_with_gaps(base.folder, job.kind, source)[0], base.folder, base.quantization, rounded)
        base = Base(name=_rounded_in(final), weights=files_digest(rounded), uri=str(rounded))
    write_base(target, base)
    made = Checkpoint(
        uri=str(folder),
        weights=adapter_digest(target, base),
        parent=None,
        tokenizer=job.model.tokenizer,
        config=config_digest(target),
        phase="base",
        fresh_head=False,
        labels=labels,
        parameters=0,
        trained_parameters=0,
        form="adapter",
        base=base,
    )
    model = load(made, job.kind)
    _check_padding(model, job)
    return made.model_copy(update={"parameters": sum(p.numel() for p in model.parameters())})


def _check_padding(model: nn.Module, job: BaseJob) -> None:
    """Raise ModelError if an answer depends on what rows are filled up with; images are of one size."""
    from ftlib.kinds.loading import load_tokenizer
    from ftlib.kinds.padding import check_padding
    from ftlib.models.limits import limits_of

    source = job.model.folder
    if KINDS[job.kind].modality == "text":
        check_padding(model, job.kind, load_tokenizer(source), job.model.name, limits_of(source).positions)


def _knows(source: Path, wanted: Mapping[str, object], job: BaseJob) -> bool:
    """Say whether the folder's head answers this very question: the same labels, if any, and the same problem."""
    problem = read_config(source).get("problem_type")
    # Older single-label and reranking heads say no problem_type; of several labels at once, every head must.
    same = problem == wanted.get("problem_type") or (problem is None and not KINDS[job.kind].names_problem)
    # Without labels the shape says it all, and a tensor of another shape is fresh anyway.
    return same and (not job.labels or _told_apart(labels_of(source)) == _told_apart(job.labels))


def _told_apart(labels: Sequence[str]) -> list[str]:
    return sorted(identity(label) or label for label in labels)


def _tied(model: nn.Module) -> str:
    parameters = [id(p) for _, p in model.named_parameters(remove_duplicate=False)]
    return "its output tied to the embedding" if len({*parameters}) < len(parameters) else "its output untied"


def _check_gaps(job: BaseJob, missing: set[str]) -> None:
    """Refuse a model whose layers or embeddings are absent: it would train from noise and look fine."""
    body = sorted(name for name in missing if layer_of(name) is not None or "embed" in name)
    if body or (missing and KINDS[job.kind].language):
        raise ModelError(
            f"{job.model.uri} lacks tensors of its own architecture: {some(body or sorted(missing), 3)}; "
            "the weights do not belong to this config.json: copy or download both again"
        )
