"""Records of models: the base model that was found, and checkpoints made from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from ftlib.artifacts import Artifact
from ftlib.config import BatchKind, Config, Name
from ftlib.errors import ModelError
from ftlib.fingerprint import Identified, digest
from ftlib.storage.node_cache import local_path
from ftlib.storage.place import is_remote

Form = Literal["dense", "adapter"]
"""How a checkpoint holds its weights: every tensor, or what peft puts over the tensors of another model."""

Quantization = Literal["nf4", "nf4_double"]
"""How linear layers are rounded to four bits: `double` has the scales of 64 weights rounded too, to eight."""

Activation = Literal["gelu", "relu", "silu", "tanh"]
"""What lies between a bottleneck's two layers."""

BOTTLENECK = "BOTTLENECK"
"""The `peft_type` of adapters that are ours, where peft has none."""

ADAPTER_CONFIG = "adapter_config.json"
BASE = "base.json"
"""Beside an adapter's config: which model it stands on, by name and digest."""


class Base(Config):
    """The model that an adapter stands on."""

    introduced: ClassVar[Mapping[str, object]] = {"quantization": None}

    name: str
    """How it is found again: a folder, `package:module/folder`, `owner/name@<commit>`, or a version `name@3`."""
    weights: str
    """Its `FoundModel.weights`, by which it is known to be the same."""
    uri: str = ""
    """Where its folder is, as an artifact's; not part of the identity."""
    quantization: Quantization | None = None
    """How its linear layers are rounded before the adapter is put over them; None: they are as they are."""

    @property
    def folder(self) -> Path:
        """Return its folder, as this machine sees it."""
        return local_path(self.uri)

    @property
    def digest(self) -> str:
        """Return what identifies the weights that the adapter is put over."""
        return self.weights if self.quantization is None else digest([self.weights, self.quantization])


def model_in(folder: Path) -> Path:
    """Return where a stage writes a checkpoint's model: config, tokenizer, and its weights in the form they have."""
    return folder / "model"


def adapter_in(folder: Path) -> Path:
    """Return where a phase leaves the adapter whose merged weights `model_in` holds."""
    return folder / "adapter"


class FoundModel(Identified):
    """A model to start from, found on this machine: a folder of safetensors, or an adapter's, config and tokenizer."""

    name: str
    """How the recipe calls it."""
    uri: str
    weights: str
    """The sha256 over the weight files and config; of an adapter also its base's."""
    tokenizer: str
    """The sha256 over the tokenizer's files."""
    generation: str = ""
    """The sha256 of generation_config.json, which is handed on beside the weights; empty where there is none."""
    reads: str = ""
    """The sha256 over what config.json says but for labels and files: how far it reads, and which tokens, follows."""
    form: Form = "dense"
    base: Base | None = None
    """What an adapter stands on; None for dense weights."""

    @property
    def folder(self) -> Path:
        """Return the folder with config, tokenizer and weights, as this machine sees it."""
        return local_path(self.uri)

    def digest(self) -> str:
        """Return the digest of all that is handed on: weights, tokenizer and generation settings."""
        return digest([self.weights, self.tokenizer, *([self.generation] if self.generation else [])])


class Task(Config):
    """One of several tasks of a checkpoint: the body with this task's head, as a model of its own."""

    name: Name
    kind: BatchKind
    labels: tuple[str, ...]
    weights: str
    """As a checkpoint's: of the body and this head."""
    parent: str | None
    config: str
    fresh_head: bool | None = None
    """As a checkpoint's, of this head alone; None in records of before it was kept: the checkpoint's."""


class Snapshot(Config):
    """Weights of a phase's way that are kept beside its end."""

    name: str
    """How it is asked for: `step-40` or `epoch-0.5`."""
    step: int
    """The optimiser step that it was taken behind."""
    weights: str
    """As a checkpoint's."""


def snapshot_in(folder: Path, name: str) -> Path:
    """Return where a stage writes what a checkpoint of one of its snapshots would have."""
    return snapshots_in(folder) / name


def snapshots_in(folder: Path) -> Path:
    """Return where a stage writes the folders of its snapshots."""
    return folder / "snapshots"


def tasks_in(folder: Path) -> Path:
    """Return where a stage writes the folders of several tasks."""
    return folder / "tasks"


def task_in(folder: Path, task: str) -> Path:
    """Return where a stage writes what a checkpoint of one task alone would have."""
    return tasks_in(folder) / task


class Checkpoint(Artifact):
    """Weights in the folder `model/`, with config and tokenizer; `form` says how they load.

        form     model/ holds                                  load
        dense    safetensors of every tensor                   as stock transformers does
        adapter  what peft saves, heads included; no merge     the base's weights with this config, then peft over them

    Of several tasks there is a `tasks/<name>/model/` for each instead: a stock folder of the body and that task's head.
    The tensors that all of them have are one file, which lies in each by a hard link. `of_task` is one of them.

    `ftlib.kinds.loading.load` makes a module of either. A phase's end also has `curves.jsonl` (one JSON object per
    optimiser step or evaluation) and, where an adapter was merged into dense weights, `adapter/`.
    """

    weights: str
    """The sha256 of the tensors: names, shapes, dtypes and bytes; of an adapter, with its config and its base's."""
    parent: str | None
    """The `weights` this one was trained from, i.e. theta0; None for a base model."""
    tokenizer: str
    """The digest of the tokenizer whose files lie beside the weights."""
    config: str = ""
    """The digest of config.json and generation_config.json beside them; empty in records of before it was kept."""
    phase: str
    """The phase that made it; `base` for the base model with its new head."""
    fresh_head: bool
    """True while the task head is still as random as it was made: such weights must not be interpolated. Of several
    tasks, while one of the heads is."""
    labels: tuple[str, ...]
    parameters: int
    trained_parameters: int
    facts: dict[str, float | int | str] = {}
    """What the run measured: steps, epochs, final and best loss, samples per second, world size, peak memory."""
    form: Form = "dense"
    base: Base | None = None
    """What an adapter stands on; None for dense weights."""
    tasks: tuple[Task, ...] = ()
    """By name, where there are several; empty where one head answers all rows, whose labels are `labels`."""
    snapshots: tuple[Snapshot, ...] = ()
    """What was kept of the phase's way, in the order of its steps."""
    snapshot: str = ""
    """Which snapshot of a phase it is; empty for an end."""

    @property
    def folder(self) -> Path:
        """Return the folder with config and tokenizer and, whatever its form, the weights; of tasks, the first's."""
        return local_path(self.model_uri)

    @property
    def model_uri(self) -> str:
        """Return where that folder is, for every machine."""
        uri = self.uri_of(model_in(task_in(Path(), self.tasks[0].name) if self.tasks else Path()))
        return uri if is_remote(uri) else str(Path(uri).absolute())

    def of_task(self, name: str | None) -> Checkpoint:
        """Return what one task alone is asked of; without a name, or tasks, the checkpoint itself."""
        task = next((task for task in self.tasks if task.name == name), None)
        if task is None:
            return self
        own = {"weights": task.weights, "parent": task.parent, "config": task.config, "labels": task.labels}
        fresh = self.fresh_head if task.fresh_head is None else task.fresh_head
        return self.model_copy(
            update={"uri": self.uri_of(task_in(Path(), task.name)), "tasks": (), "fresh_head": fresh, **own}
        )

    def at(self, snapshot: str) -> Checkpoint:
        """Return one of its snapshots as a checkpoint. Raises ModelError if there is none of that name."""
        kept = next((one for one in self.snapshots if one.name == snapshot), None)
        if kept is None:
            names = ", ".join(one.name for one in self.snapshots) or "none"
            raise ModelError(f"{self.phase!r} has no snapshot {snapshot!r}, it has {names}; did it end before it?")
        place = {"uri": self.uri_of(snapshot_in(Path(), snapshot)), "phase": f"{self.phase}@{snapshot}"}
        told = {"weights": kept.weights, "snapshot": snapshot, "snapshots": (), "facts": {"step": kept.step}}
        return self.model_copy(update={**place, **told})

    @property
    def adapter(self) -> Path | None:
        """Return the folder of the adapter that it is, or was merged from; None where there is none."""
        if self.form == "adapter":
            return self.folder
        beside = self.local(adapter_in(Path()))
        return beside if (beside / ADAPTER_CONFIG).is_file() else None

    @property
    def weights_folder(self) -> Path:
        """Return the folder whose files hold every tensor, for who reads tensor by tensor.

        Raises ModelError for an adapter: its weights are made when it is loaded, and lie in no file.
        """
        self._check_dense()
        return self.folder

    def _check_dense(self) -> None:
        if self.form == "adapter":
            raise ModelError(
                f"{self.phase!r} is an adapter over {self.base.name if self.base else 'another model'} and has no file "
                "of merged weights; train it with tuning.keep: merged"
            )

    def as_found(self) -> FoundModel:
        """Return it as a model to start from, as dense weights are given another head. Raises ModelError for none."""
        self._check_dense()
        weights = digest([self.weights, self.config])
        return FoundModel(name=self.phase, uri=self.model_uri, weights=weights, tokenizer=self.tokenizer)

    def digest(self) -> str:
        """Return the digest of all that its folder hands on: equal tensors beside another tokenizer are another one."""
        of_tasks = [digest([task.name, task.config, *task.labels]) for task in self.tasks]
        return digest([self.weights, self.tokenizer, self.config, list(self.labels), *of_tasks])
