"""What a service's refusal means, in the words that all of them share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from ftlib.errors import StorageError, TransientError

SKEW = 300.0
"""Seconds between two clocks from which on services refuse what was signed; their limits are 5 to 15 minutes."""


def one_line(text: object) -> str:
    """Return a text without the breaks that others put in it."""
    return " ".join(str(text).split())


def needs_extra(scheme: str, package: str, extra: str, error: ImportError) -> StorageError:
    """Say which packages a place needs."""
    return StorageError(
        f"{scheme}:// needs the package {package}, which is not here ({one_line(error)}); install it with "
        f"pip install 'reglage[{extra}]'"
    )


def unreachable(what: str, error: Exception) -> TransientError:
    """Say that no answer came."""
    return TransientError(
        f"{what}: {one_line(error) or type(error).__name__}; check the endpoint and the network, then run again"
    )


def overloaded(what: str, answer: object) -> TransientError:
    """Say that the service wants to be asked later."""
    return TransientError(f"{what}: the store answered {answer}; it may be overloaded: run again later")


def refused(what: str, answer: object, message: str, remedy: str) -> StorageError:
    """Say why it was refused, and what to do."""
    text = one_line(message).rstrip(".")
    return StorageError(f"{what}: the store answered {answer}{f' ({text[:300]})' if text else ''}; {remedy}")


def not_encrypted(where: str, key: str, used: str) -> StorageError:
    """Say that a store encrypts with another key than was asked for."""
    return StorageError(
        f"{where}: encryption with the KMS key {key!r} was asked for, and the store encrypts with {used}; leave out "
        "encryption.kms_key, or set the key where the store takes one"
    )


def seconds_ahead(headers: Mapping[str, str]) -> float | None:
    """Return how far this machine's clock is ahead of the service's, by the date of its answer; None without one."""
    date = next((value for name, value in headers.items() if name.lower() == "date"), None)
    return None if date is None else time.time() - parsedate_to_datetime(date).timestamp()


def clock(ahead: float | None) -> str:
    """Say what to do about a clock that is wrong."""
    if ahead is None:
        return "this machine's clock is wrong: set it"
    return f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the store's: set it"
