"""What a check of a machine says."""

from ftlib.config import Config


class Finding(Config):
    """One thing that was looked at."""

    what: str
    """Its name, the same in every examination."""
    ok: bool
    """Whether all is well."""
    found: str
    """What was found, in one line."""
    remedy: str = ""
    """What to do, where something is to be done."""
    needed: bool = True
    """Whether no run is possible where it is not well; otherwise a run works, and somebody should know."""


def well(what: str, found: str) -> Finding:
    """Say that something is as it should be."""
    return Finding(what=what, ok=True, found=found)


def wrong(what: str, found: str, remedy: str) -> Finding:
    """Say that something makes a run impossible."""
    return Finding(what=what, ok=False, found=found, remedy=remedy)


def unsafe(what: str, found: str, remedy: str) -> Finding:
    """Say that something works and should not stay so."""
    return Finding(what=what, ok=False, found=found, remedy=remedy, needed=False)


def split(what: str, message: str, *, needed: bool = True) -> Finding:
    """Say what an error says: what is wrong, and after the last semicolon the remedy."""
    found, _, remedy = message.partition("; ")
    return Finding(what=what, ok=False, found=found, remedy=remedy, needed=needed)
