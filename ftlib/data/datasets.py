"""Records of data: the snapshot of rows, and the splits prepared from it."""

from __future__ import annotations

from ftlib.artifacts import Artifact
from ftlib.config import BatchKind, Config, Split
from ftlib.data.listed import FileVersion
from ftlib.data.personal_data import Counts
from ftlib.data.profile import Profile
from ftlib.data.supervision import Audit


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
    personal_data: Counts | None = None
    """Matches by column and kind, in rows as their source holds them; None: ingested before they were counted."""
    name: str = ""
    """What the recipe that first asked for it calls the dataset; empty: ingested before that was noted."""
    key: str | None = None
    """The column of the rows' own keys, where there is one, or where it was noted."""

    def digest(self) -> str:
        """Return the digest of the rows."""
        return self.content


class SplitFacts(Config):
    """One split of a prepared dataset."""

    rows: int
    tokens: int
    """The rows' sizes together: their tokens, or what else the format counts."""
    supervised: int
    """Terms of the loss: labels, tags of words, or target tokens that a loss or metric can see."""
    truncated: int
    longest: int
    """The largest size of a row, after truncation."""
    labels: dict[str, int] = {}
    """Rows per label; rows that have some word of it, per tag."""


class PreparedDataset(Artifact):
    """The splits as a model reads them: `train.arrow`, `validation.arrow`, `test.arrow` (`ftlib.data.prepared`)."""

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
    """What the training rows look like: what later rows are compared with, by `ftlib.retraining.drift.drift`."""
    tokenizer: str
    """The digest of the tokenizer that made the ids."""
    special_tokens: dict[str, int] = {}
    """The tokenizer's special tokens that rows' texts spell, and in how many rows each."""
    audit: Audit = Audit()
    """What the training rows teach, of language models' rows."""
    image_changes: dict[str, int] = {}
    """What was done to images so that all are 8-bit RGB and upright, and to how many each."""

    def digest(self) -> str:
        """Return the digest of the rows' inputs and targets."""
        return self.content
