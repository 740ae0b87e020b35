"""Every error a user can meet, sorted by what to do about it.

    ReglageError
      RecipeError          fix the recipe (or the command line)
      DataError            fix the rows, or the recipe's limits on them
      ModelError           fix the model folder: missing, no tokenizer, not loadable, wrong shape
      TrainingError        the training broke one of its own invariants; nothing is published
      StorageError         disk or object store refused: full, read-only, absent, ignores conditions
        IntegrityError     bytes differ from their recorded digest; never loaded
        ConflictError      an alias moved since the caller decided; decide again against what it means now
      BusyError            the same run is going on in another process
      TransientError       the one that is retried: time-outs, 5xx, lost workers
      Interrupted          the user pressed Ctrl-C or the machine is going away; resumable
        OverBudget         the next step would cost more than the budget; resumable with a larger one

A message names what, got, allowed, and the remedy, in that order. To add an error, subclass its category; keep
`__init__` as it is: errors cross Ray and Prefect as pickles, and an extra parameter breaks that silently.
A gate that says no is not here: it is a normal result (`Refusal`).
"""

from __future__ import annotations

from ftlib.urls import redacted


class ReglageError(Exception):
    """Shown to the user as one line, without a traceback."""

    exit_code = 1

    def __str__(self) -> str:
        """Say it without the passwords of URLs, whoever put them in: logs, pages and terminals all come here."""
        return redacted(super().__str__())


class RecipeError(ReglageError):
    """The recipe, or a command's arguments, must change."""

    exit_code = 2


class DataError(ReglageError):
    """The rows must change, or the recipe's limits on them."""

    exit_code = 3


class ModelError(ReglageError):
    """The base model's folder cannot be used."""

    exit_code = 4


class TrainingError(ReglageError):
    """Training broke an invariant: it never leaves a checkpoint behind that looks fine."""

    exit_code = 5


class StorageError(ReglageError):
    """The disk or the object store refused."""

    exit_code = 6


class IntegrityError(StorageError):
    """Bytes differ from the digest recorded for them."""


class ConflictError(StorageError):
    """Another process changed what this one's decision was based on."""


class BusyError(ReglageError):
    """Another process holds what this one needs."""

    exit_code = 7


class TransientError(ReglageError):
    """Worth another attempt; `tasks/policy.py` retries exactly this class."""

    exit_code = 8


class Interrupted(ReglageError):
    """Stopped on request; the next run goes on from the last checkpoint."""

    exit_code = 130


class OverBudget(Interrupted):
    """The budget would be passed; what was made is kept."""

    exit_code = 9


def is_on_request(error: BaseException) -> bool:
    """Say whether somebody ended it: by a word of ours, by Ctrl-C, by a signal or a cancel that Prefect raises."""
    return isinstance(error, Interrupted) or not isinstance(error, Exception)


def first_line(error: BaseException) -> str:
    """Return what another library's error says, in one line: its first, unless that only announces the next.

    Errors without a message, and a KeyError, whose message is the bare key, are named with their type.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines or isinstance(error, KeyError):
        return repr(error).splitlines()[0]
    return next((line for line in lines if not line.endswith(":")), lines[0])
