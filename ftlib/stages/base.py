"""The base model with the head the objective needs: where the first phase starts."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from ftlib.artifacts import Checkpoint, FoundModel
from ftlib.config import BatchKind
from ftlib.errors import ModelError
from ftlib.fingerprint import Job
from ftlib.parameter_names import layer_of
from ftlib.workspace import Workspace


class BaseJob(Job):
    """Which model, with a head for which labels. A head the model already has for just these labels is kept."""

    stage: ClassVar[str] = "base"
    version: ClassVar[int] = 1

    model: FoundModel
    kind: BatchKind
    labels: tuple[str, ...]
    seed: int


def base(job: BaseJob, work: Workspace) -> Checkpoint:
    """Return the base model as a checkpoint. Raises ModelError if more than its head would be random."""
    return work.once(job, Checkpoint, lambda folder: _build(job, folder))


def _build(job: BaseJob, folder: Path) -> Checkpoint:
    import torch

    from ftlib.training.heads import head_of
    from ftlib.training.model import head_modules, labels_of, load_with_gaps, save_model, weights_digest

    source = Path(job.model.uri)
    order = labels_of(source)
    head = head_of(job.kind)
    keeps = head.own_layer and sorted(order) == sorted(job.labels)
    labels = order if keeps else job.labels
    torch.manual_seed(job.seed)
    model, missing = load_with_gaps(source, job.kind, **head.config(labels))
    _check_gaps(job, missing, own_layer=head.own_layer)
    save_model(model, folder / "model", labels, source)
    return Checkpoint(
        weights=weights_digest(folder / "model"),
        parent=None,
        tokenizer=job.model.tokenizer,
        phase="base",
        fresh_head=any(name.split(".")[0] in head_modules(model) for name in missing),
        labels=labels,
        parameters=sum(p.numel() for p in model.parameters()),
        trained_parameters=0,
    )


def _check_gaps(job: BaseJob, missing: set[str], *, own_layer: bool) -> None:
    """Refuse a model whose layers or embeddings are absent: it would train from noise and look fine."""
    body = sorted(name for name in missing if layer_of(name) is not None or "embed" in name)
    if body or (missing and not own_layer):
        raise ModelError(
            f"{job.model.uri} lacks tensors of its own architecture: {', '.join((body or sorted(missing))[:3])}; "
            "the weights do not belong to this config.json"
        )
