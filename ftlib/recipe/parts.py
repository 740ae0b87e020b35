"""A recipe: one YAML file that says everything a run needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, TypeVar

from ftlib.config import BatchKind, Config, Name
from ftlib.data.dataset import Dataset
from ftlib.data.formats import Format
from ftlib.data.formats.pairs_of_answers import PAIRS
from ftlib.evaluation.evaluation import Evaluation
from ftlib.evaluation.learning_curve import LearningCurve
from ftlib.evaluation.metrics import Metric
from ftlib.evaluation.selection import Select
from ftlib.kinds.kind import one_model
from ftlib.merging.interpolation import NO_INTERPOLATION, Interpolation
from ftlib.models.added_tokens import AddedToken
from ftlib.models.pruning import Prune
from ftlib.models.reference import ModelRef
from ftlib.registry.publish import Publish
from ftlib.retraining.live_policy import Monitor
from ftlib.retraining.policy import Retrain
from ftlib.search.search import Search
from ftlib.storage import Store
from ftlib.storage.encryption import Encryption
from ftlib.training.compute import Compute
from ftlib.training.phase import Phase
from ftlib.workspace import Workspace

R = TypeVar("R", bound="RecipeParts")


class RecipeParts(Config):
    """Everything a run is told, and what its parts say of each other; `Recipe` is one whose parts fit."""

    introduced: ClassVar[Mapping[str, object]] = {
        "prune": None,
        "added_tokens": (),
        "encryption": Encryption(),
        "learning_curve": None,
        "monitor": Monitor(),
        "search": Search(),
    }

    name: Name
    """What the run is called: its folder in the work folder, its lock and its page."""
    model: ModelRef
    """The base model that the first phase starts from."""
    added_tokens: tuple[AddedToken, ...] = ()
    """Tokens that the base model learns before rows are prepared: its tokenizer and its tensors have one more each."""
    datasets: dict[Name, Dataset]
    """Rows by the name that phases and evaluations call them."""
    prune: Prune | None = None
    """Which layers of the base model are removed before the first phase; null: none."""
    phases: tuple[Phase, ...]
    """Trainings, one after the other: each starts where the one before ended, or from the base model again."""
    evaluations: dict[Name, Evaluation]
    """What is measured, by the name that rules, gates and the report call it."""
    interpolation: Interpolation = NO_INTERPOLATION
    """Which points between the last phase's start and end are candidates too; by default none."""
    select: Select
    """Which candidate is published, and what it must reach."""
    publish: Publish
    """Under which name the chosen candidate is published, and where."""
    learning_curve: LearningCurve | None = None
    """On which shares of the rows to train again, for the report to say what more rows would give; null: none."""
    retrain: Retrain = Retrain()
    """When `reglage retrain` trains again, and when it replaces the version in place."""
    monitor: Monitor = Monitor()
    """Which log of live answers `reglage monitor` reads, and what it does about them."""
    search: Search = Search()
    """Which values of other fields `reglage search` tries."""
    compute: Compute = Compute()
    """Where it runs, and how fast; the result is the same."""
    encryption: Encryption = Encryption()
    """What the stores that a run writes to encrypt with; by default what they are set up to."""
    seed: int = 0
    """Of every random draw: fresh heads, the order of rows, dropout, resamples."""

    def registry_store(self) -> Store:
        """Open the registry that it publishes to, to be written with its key; nothing is touched yet."""
        return self.publish.store(self.encryption.kms_key)

    def work_place(self, work: str) -> Workspace:
        """Open a work place, to be written with its key; nothing is touched yet."""
        return Workspace(work, self.encryption.kms_key)

    def training_datasets(self) -> tuple[str, ...]:
        """Return the datasets whose rows some phase trains on, or is kept near, in order."""
        penalties = (phase.penalty.keeps for phase in self.phases if phase.penalty)
        kept = (name for one in penalties if one for name in one.datasets)
        return tuple(dict.fromkeys([*(name for phase in self.phases for name in phase.parts), *kept]))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Return the tasks that one model learns, by name; none where one head answers all rows."""
        return tuple(sorted({dataset.task for dataset in self.datasets.values() if dataset.task is not None}))

    def of_task(self: R, task: str | None) -> R:
        """Return what the recipe says of one task: its datasets, evaluations and phases; not a recipe to be run.

        It chooses by the recipe's metric if that is the task's, else by the task's first. Without a task it is itself.
        """
        if task is None:
            return self
        lone = {"task": None}
        datasets = {name: one.model_copy(update=lone) for name, one in self.datasets.items() if one.task == task}
        evaluations = {name: one for name, one in self.evaluations.items() if one.dataset in datasets}
        paths = [f"{name}/{metric.name}" for name, one in evaluations.items() for metric in one.metrics]
        by = self.select.by if self.select.by in paths or not paths else paths[0]
        phases = [phase.of_task(datasets, task) for phase in self.phases if {*phase.parts} & {*datasets}]
        select = self.select.model_copy(update={"by": by})
        named = {"datasets": datasets, "evaluations": evaluations, "phases": tuple(phases), "select": select}
        return self.model_copy(update=named)

    def kind(self, phase: Phase) -> BatchKind:
        """Return the kind of the batches that a phase trains on; of several tasks, that of its first part's."""
        return self.kind_of(phase, next(iter(phase.parts)))

    def kind_of(self, phase: Phase, name: str) -> BatchKind:
        """Return the kind of the batches that a phase makes of one of its datasets: its own, or pairs of answers."""
        return PAIRS if phase.principles else self.datasets[name].format.yields

    def takes_new_head(self, phase: Phase) -> bool:
        """Say whether a phase's batches need another head than the model has whose body it takes.

        That is the end of the phase before, or the base model, which has the head that the published model begins with.
        """
        i = self.phases.index(phase)
        before = self.phases[i - 1] if i and not phase.start else self.chain[0]
        return not self.tasks and not one_model(self.kind(before), self.kind(phase))

    @property
    def chain(self) -> tuple[Phase, ...]:
        """Return the phases that lead from the base model to the published one: from the last that starts there on."""
        return self.phases[max((i for i, phase in enumerate(self.phases) if phase.start), default=0) :]

    @property
    def learning_phases(self) -> tuple[Phase, ...]:
        """Return the phases that a learning curve trains again: from the first that learns of the last one's rows."""
        parts = {*self.phases[-1].parts}
        return self.chain[next(i for i, phase in enumerate(self.chain) if parts & {*phase.parts}) :]

    @property
    def answering_phases(self) -> tuple[Phase, ...]:
        """Return the last phases, as far back as they train one head: what is measured and published answers so."""
        first = max((i for i, phase in enumerate(self.chain) if self.takes_new_head(phase)), default=0)
        return self.chain[first:]

    @property
    def answering_kind(self) -> BatchKind:
        """Return the kind of the batches that the published head is first trained on."""
        return self.kind(self.answering_phases[0])

    def answering_datasets(self) -> tuple[str, ...]:
        """Return the datasets that the published head is trained on, in order."""
        return tuple(dict.fromkeys(name for phase in self.answering_phases for name in phase.parts))

    def published_format(self) -> Format:
        """Return how the last phase's rows are laid out, as the published model is asked.

        Of a mixture, its part with the largest share.
        """
        return self.published_dataset().format

    def published_dataset(self, phase: Phase | None = None) -> Dataset:
        """Return the dataset that the last phase, or another, trains on; of a mixture, that of the largest share."""
        parts = (phase or self.phases[-1]).parts
        return self.datasets[max(parts, key=parts.__getitem__)]

    @property
    def beams(self) -> int:
        """Return how many beginnings of an answer the published model keeps while it writes: the most measured."""
        return max((evaluation.num_beams for evaluation in self.evaluations.values()), default=1)

    def evaluation_datasets(self) -> tuple[str, ...]:
        """Return the datasets that some evaluation reads, in order."""
        return tuple(dict.fromkeys(evaluation.dataset for evaluation in self.evaluations.values()))

    def metric(self, path: str) -> tuple[str, Metric]:
        """Split `evaluation/metric` and return the evaluation's name and the metric; KeyError if there is none."""
        name, _, metric_name = path.partition("/")
        for metric in self.evaluations[name].metrics:
            if metric.name == metric_name:
                return name, metric
        raise KeyError(path)

    @property
    def has_training_datasets(self) -> bool:
        """Say whether every phase's datasets are in the recipe."""
        return {*self.training_datasets()} <= {*self.datasets}
