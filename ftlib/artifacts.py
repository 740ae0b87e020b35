"""What stages hand to each other: a reference, a fingerprint and the few facts that the next stage checks.

Data is written first and its record last, so a folder without `artifact.json` does not exist (see `workspace.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from ftlib.config import BatchKind, Config, Split
from ftlib.fingerprint import Identified, digest, identify
from ftlib.merging import Lerp, Merge
from ftlib.profile import Profile


class Artifact(Identified):
    """The record of a finished stage."""

    schema_version: Literal[1] = 1
    uri: str = ""
    """The folder that holds it, as an absolute path; not part of the identity."""
    fingerprint: str = ""
    """The job that made it."""
    seconds: float = 0.0
    """The stage's own wall time when it was made; not part of the identity."""

    @property
    def path(self) -> Path:
        """Return the artifact's folder."""
        return Path(self.uri)


class ListedFile(Config):
    """One file as a listing shows it, before a byte of it is read."""

    uri: str
    version: str
    """An opaque token that differs where the bytes may: compared for equality, never for order."""
    bytes: int
    settled: bool = True
    """False while it may still be written: it waits for a later run."""

    @property
    def identity(self) -> tuple[str, str, int]:
        """Return what makes it the same file at two times."""
        return self.uri, self.version, self.bytes


class PinnedAlready(NamedTuple):
    """What an earlier run read of files that may still be the same."""

    sha256: Mapping[tuple[str, str, int], str]
    """By the files' identity."""
    at: float
    """When that was, in seconds since 1970."""


class FileVersion(Identified):
    """One input file as it was when the run started; it counts by its place and its bytes."""

    uri: str
    bytes: int
    sha256: str
    version: str = ""
    """The listing's token for these bytes, with which a store can be asked for them and no others."""

    def digest(self) -> str:
        """Return the digest of place, size and sha256: a file that was only touched is the same."""
        return digest([self.uri, self.bytes, self.sha256])


class Ledger(Config):
    """Where every row went. `rows_in` = `kept` + the sum of `dropped`; nothing vanishes without a reason."""

    rows_in: int
    kept: int
    dropped: dict[str, int] = {}


class RawDataset(Artifact):
    """A content-addressed snapshot of rows: `rows.parquet`, and `quarantine.jsonl` with (uri, line, reason).

    `rows.parquet` has the source's own columns, `_row_id` (sha256 of the row's canonical JSON, 32 hex digits) and
    `_file` (the place in `files` of the file it came from; null where the source does not say).
    """

    content: str
    """The sha256 of all rows in order, whatever the files were called."""
    columns: tuple[str, ...]
    files: tuple[FileVersion, ...]
    """In the order they are read: by sha256."""
    ledger: Ledger

    def digest(self) -> str:
        """Return the digest of the rows."""
        return self.content


class FoundModel(Identified):
    """A base model found on this machine: a folder of safetensors, config and tokenizer."""

    name: str
    """How the recipe calls it."""
    uri: str
    weights: str
    """The sha256 over the weight files and config."""
    tokenizer: str
    """The sha256 over the tokenizer's files."""
    generation: str = ""
    """The sha256 of generation_config.json, which is handed on beside the weights; empty where there is none."""
    reads: str = ""
    """The sha256 over what config.json says but for labels and files: how far it reads, and which tokens, follows."""

    def digest(self) -> str:
        """Return the digest of all that is handed on: weights, tokenizer and generation settings."""
        return digest([self.weights, self.tokenizer, *([self.generation] if self.generation else [])])


class SplitFacts(Config):
    """One split of a prepared dataset."""

    rows: int
    tokens: int
    supervised: int
    """Terms of the loss: labels, tags of words, or target tokens that a loss or metric can see."""
    truncated: int
    longest: int
    """Tokens of the longest row after truncation."""
    labels: dict[str, int] = {}
    """Rows per label; rows that have some word of it, per tag."""


class PreparedDataset(Artifact):
    """Tokenised splits: `train.arrow`, `validation.arrow`, `test.arrow`, memory-mapped by whoever reads them.

    Columns: `row_id`, `input_ids` list<int32>, `supervised` int32, `target` of the kind's own type, `slice:<name>`.
    """

    content: str
    kind: BatchKind
    labels: tuple[str, ...]
    """Sorted label strings over all splits; empty where the kind has none."""
    spellings: dict[str, dict[str, int]] = {}
    """Rows by spelling of the labels that are written in several ways, or with invisible characters, by their name."""
    splits: dict[Split, SplitFacts]
    ledger: Ledger
    leaked: int
    """Rows dropped because an evaluation set holds the same text, or nearly the same: of train, and of validation where
    its own test does."""
    profile: Profile = Profile()
    """What the training rows look like: what later rows are compared with, by `ftlib.drift.drift`."""
    tokenizer: str
    """The digest of the tokenizer that made the ids."""
    special_tokens: dict[str, int] = {}
    """The tokenizer's special tokens that rows' texts spell, and in how many rows each."""

    def digest(self) -> str:
        """Return the digest of the token ids and labels."""
        return self.content


class Checkpoint(Artifact):
    """Weights that stock transformers loads: the folder `model/` with safetensors, config and tokenizer.

    A phase's end also has `curves.jsonl` (one JSON object per optimiser step or evaluation) and, for LoRA, `adapter/`.
    """

    weights: str
    """The sha256 of the tensors: names, shapes, dtypes and bytes."""
    parent: str | None
    """The `weights` this one was trained from, i.e. theta0; None for a base model."""
    tokenizer: str
    """The digest of the tokenizer whose files lie beside the weights."""
    config: str = ""
    """The digest of config.json and generation_config.json beside them; empty in records of before it was kept."""
    phase: str
    """The phase that made it; `base` for the base model with its new head."""
    fresh_head: bool
    """True while the task head is still as random as it was made: such weights must not be interpolated."""
    labels: tuple[str, ...]
    parameters: int
    trained_parameters: int
    facts: dict[str, float | int | str] = {}
    """What the run measured: steps, epochs, final and best loss, samples per second, world size, peak memory."""

    def digest(self) -> str:
        """Return the digest of all that its folder hands on: equal tensors beside another tokenizer are another one."""
        return digest([self.weights, self.tokenizer, self.config, list(self.labels)])


class Candidate(Identified):
    """Weights to evaluate: a checkpoint as it is, or what a merge method makes of several."""

    name: str
    start: Checkpoint
    """theta0."""
    end: Checkpoint
    """theta1; its labels, tokenizer and file layout are the candidate's."""
    siblings: tuple[Checkpoint, ...] = ()
    """More checkpoints trained from theta0."""
    merge: Merge | None = None
    """None: the end, as it is."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Candidate:
        """Wrap a checkpoint as it is."""
        return cls(name=checkpoint.phase, start=checkpoint, end=checkpoint)

    @classmethod
    def between(cls, start: Checkpoint, end: Checkpoint, alpha: float) -> Candidate:
        """Return the point `(1 - alpha) * start + alpha * end`."""
        return cls(name=f"alpha={alpha:g}", start=start, end=end, merge=Lerp(alpha=alpha))

    @property
    def mixes(self) -> bool:
        """Say whether it is made of several checkpoints, or an end of what is; a plain checkpoint is not."""
        return self.merge is not None

    @property
    def alpha(self) -> float | None:
        """Return its place between theta0 (0) and theta1 (1); None where it has none."""
        return self.merge.coordinate() if self.merge else None

    @property
    def parts(self) -> tuple[Checkpoint, ...]:
        """Return the checkpoints its weights are made of, in the order that the merge method takes them."""
        if self.merge is None:
            return (self.end,)
        everyone = (self.start, self.end, *self.siblings)
        return tuple(everyone[i] for i in self.merge.inputs(len(everyone)))

    @property
    def weights(self) -> str:
        """Return the digest of the tensors: what is a byte copy keeps its source's."""
        return self._of([part.weights for part in self.parts])

    def digest(self) -> str:
        """Return the digest of the tensors and of all that lies beside them; a byte copy has its source's."""
        return self._of([part.digest() for part in self.parts])

    def _of(self, parts: list[str]) -> str:
        source = 0 if self.merge is None else self.merge.whole_copy()
        if source is not None:
            return parts[source]
        assert self.merge is not None
        return digest(["merge", self.merge.version, identify(self.merge), [*parts]])


class Candidates(Artifact):
    """The candidates of an interpolation, theta0 first and theta1 last; nothing is written but this record."""

    members: tuple[Candidate, ...]

    def digest(self) -> str:
        """Return the digest of all members."""
        return digest([member.digest() for member in self.members])


class Estimate(Config):
    """A metric with its confidence interval, in the metric's own unit; or why these rows do not define it."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str = ""
    """What the rows lack where there is no value."""

    def numbers(self) -> tuple[float, float, float] | None:
        """Return low, value and high; None where the metric is undefined."""
        if self.low is None or self.value is None or self.high is None:
            return None
        return self.low, self.value, self.high


class SliceFacts(Config):
    """A metric on part of the rows."""

    rows: int
    metrics: dict[str, Estimate]


class Measured(Config):
    """One candidate on one split of one evaluation, computed from its table of per-example outcomes."""

    candidate: str
    weights: str
    """The digest of the candidate's tensors."""
    alpha: float | None
    """None where the candidate is not a point of an interpolation."""
    evaluation: str
    split: Split
    rows: int
    outcomes: str
    """The per-example table, relative to the work folder's root: row_id, gold, predicted, nll, probabilities."""
    metrics: dict[str, Estimate]
    signatures: dict[str, str] = {}
    """What the values of some metrics must be cited with: the library's version and settings."""
    slices: dict[str, SliceFacts] = {}


class EvalReport(Artifact):
    """Every measured (candidate, evaluation, split) of one evaluate job."""

    measured: tuple[Measured, ...]

    def digest(self) -> str:
        """Return the digest of all values."""
        return digest([m.model_dump(mode="json", exclude={"outcomes"}) for m in self.measured])

    def of(self, candidate: str, evaluation: str, split: Split) -> Measured:
        """Return one cell; KeyError names what is there if it is absent."""
        for cell in self.measured:
            if (cell.candidate, cell.evaluation, cell.split) == (candidate, evaluation, split):
                return cell
        have = sorted({(m.candidate, m.evaluation, m.split) for m in self.measured})
        raise KeyError(f"no measurement of {candidate!r} on {evaluation}/{split}; measured: {have}")


class Selection(Artifact):
    """Which candidate a stated rule chose on the selection split, and why."""

    chosen: Candidate
    rule: str
    """The rule in words, with its numbers."""
    why: str
    """How the rule came to this choice, and whether mixing beats both ends significantly."""
    beats_both_ends: tuple[str, ...] = ()
    """The candidates that do, by what the rule scores."""

    def digest(self) -> str:
        """Return the digest of the choice."""
        return digest([self.chosen.digest(), self.rule])


class Report(Artifact):
    """The page people look at: `report.html`, self-contained, `report.md`, and the plots as `*.svg` and `*.png`."""

    html: str
    """File names inside the folder."""
    markdown: str
    plots: tuple[str, ...]

    def digest(self) -> str:
        """Return what the report was made from: its job."""
        return self.fingerprint


class Refusal(Artifact):
    """A gate said no: a normal end. Each reason names the metric, what it is and what it had to be."""

    reasons: tuple[str, ...]

    def digest(self) -> str:
        """Return the digest of the reasons."""
        return digest(list(self.reasons))


class ModelVersion(Artifact):
    """A published, verified, immutable version."""

    name: str
    version: int
    registry: str
    """The registry's URI."""
    manifest: str
    """The sha256 of the manifest."""
    logit_difference: float
    """Largest difference of logits between the version read back through stock transformers and the candidate."""
    created: bool
    """False where this very version was there already."""

    def digest(self) -> str:
        """Return the manifest's digest."""
        return self.manifest
