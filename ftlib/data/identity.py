"""When two values are one, whichever file type, program or keyboard wrote them: the one answer that everything asks.

`identity` folds what no person can tell apart in a table: 7, 7.0, "7" and " 7 "; true and "True"; NFC and NFD;
invisible characters; a date and its midnight. By it labels, slices and keys are told apart. `folded` goes on to what is
ambiguous (case, 007 and 7, full-width letters, numbers that float64 or float32 cannot tell apart): by it groups, splits
and copies go, since two rows too many on one side cost nothing and one that leaks costs the evaluation. What `identity`
calls one, `folded` calls one.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal, cast

from ftlib.data.cleaning import clean

Version = Literal[1, 2]
"""1: until 2026-11 a key was `str(int)` or a stripped text. 2: what `identity` says."""
IDENTITY: Version = 2
"""What is stored under an identity says its version, and is asked by that version's rule: raise it with the rule."""

NONE = "(none)"
"""How a slice without a value is called."""

# Soft hyphen, zero-width space, word joiner, marks of direction, fillers, annotations: nothing to see in any script.
_UNSEEN = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164\ufeff\uffa0"
    "\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e001f\U000e0080-\U000e00ff"
    "\U000e01f0-\U000e0fff]"
    # Tags spell the flags of England, Scotland and Wales; elsewhere they are invisible.
    "|(?<![\U0001f3f4\U000e0020-\U000e007f])[\U000e0020-\U000e007f]+"
)
_SHAPED = (
    "\u0600-\u0dff\u0f00-\u109f\u1780-\u18af\u1a20-\u1aaf\u1b00-\u1bff\ua800-\ua8df\ua980-\uaa5f\uaae0-\uaaff\uabc0-\uabff"
    "\U00010a00-\U00011fff\U0001e900-\U0001e95f"  # Arabic, Indic and other scripts whose letters change with a joiner
    "\u2190-\u21ff\u2300-\u27bf\u2b00-\u2bff\ufe0f\U0001f000-\U0001faff"  # emoji
)
_IDLE_JOINERS = re.compile(f"(?<![{_SHAPED}\u200c\u200d])[\u200c\u200d]+|[\u200c\u200d]+(?![{_SHAPED}\u200c\u200d])")
"""Joiners (ZWJ, ZWNJ) that join or part nothing: what they stand between looks the same without them."""
_VARIATIONS = re.compile("[\ufe00-\ufe0f\u180b-\u180d\u180f\U000e0100-\U000e01ef]")
_IGNORED = re.compile("[\u200c\u200d\U000e0020-\U000e007f]")
_WHOLE = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.0+)?")
_POWER = re.compile(r"-?[1-9](?:\.[0-9]+)?e\+[0-9]{2,3}")
"""How a float64 of a large whole number is written by Python, and so in pandas' csv."""
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]{1,3})?")
_LONGEST_NUMBER = 40
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?"
)
_EXACT = 2**53
"""Up to here every whole number is a float64."""


def written(value: object) -> str:
    """Return a row's value as text, as a person writes it: `true`, `7` for 7.0, cleaned; nested ones as JSON."""
    if isinstance(value, str):
        return clean(value)
    if value is None or isinstance(value, bool):
        return "" if value is None else str(value).lower()
    if isinstance(value, (list, dict)):
        return json.dumps(_each(value), sort_keys=True, ensure_ascii=False)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _each(value: object) -> object:
    if isinstance(value, list):
        return [_each(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {visible(name): _each(item) for name, item in cast("dict[str, object]", value).items()}
    return identity(value)


def visible(text: str) -> str:
    """Return a cleaned text without what nobody can see in it. Joiners stay where they shape a script or an emoji."""
    if text.isascii():
        return clean(text)
    return clean(_IDLE_JOINERS.sub("", _UNSEEN.sub("", clean(text))))


def identity(value: object) -> str | None:
    """Return what two values have in common that are one to a person; None for a value that is none: null, blank."""
    text = written(value)
    if not text.isascii():
        text = visible(_VARIATIONS.sub("", text))
    if _WHOLE.fullmatch(text):
        whole = text.partition(".")[0]
        return "0" if whole == "-0" else whole
    if _POWER.fullmatch(text) and repr(float(text)) == text:
        return str(int(float(text)))
    if _MOMENT.fullmatch(text):
        return _moment(text)
    if text.lower() in ("true", "false"):
        return text.lower()
    return text or None


def _moment(text: str) -> str:
    """Return a date or moment in UTC, which it is in if it names no zone; midnight is the date."""
    try:
        moment = datetime.fromisoformat(text)
        moment = moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError):  # the 30th of February; a day before the first of year 1
        return text
    whole = moment.isoformat()
    return whole.removesuffix("T00:00:00")


def folded(value: object) -> str | None:
    """Return the wider of two identities, for groups, splits and copies; None where `identity` is None."""
    text = identity(value)
    if text is None:
        return None
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", _IGNORED.sub("", text))
        text = unicodedata.normalize("NFKC", text.casefold())
        text = identity(text) or ""
    return _number(text) if len(text) <= _LONGEST_NUMBER and _NUMBER.fullmatch(text) else text


def _number(text: str) -> str:
    """Return a number's one spelling: whole ones as float64 holds them, others as float32 does.

    A column of whole numbers with a gap in it is one of float64 to pandas, and loses digits beyond 2^53.
    """
    exact = Decimal(text)
    if exact == exact.to_integral_value():
        whole = int(exact)
        return str(int(float(whole)) if _EXACT < abs(whole) < 2**64 else whole)
    try:
        single: float = struct.unpack("<f", struct.pack("<f", float(exact)))[0]
    except OverflowError:
        return text
    return str(int(single)) if single.is_integer() else repr(single)


def text_key(text: str) -> bytes:
    """Return 16 bytes that are equal for texts that are copies of each other: those that `folded` calls one."""
    return hashlib.blake2b((folded(text) or "").encode(), digest_size=16).digest()


def published(spellings: Mapping[str, int], names: Iterable[str] = ()) -> dict[str, str]:
    """Return the one name of every label as written: of spellings with one identity the most frequent, then the first.

    `spellings` counts rows; `names` are taken as they are where a label has their identity, unless they collide.
    """
    alike: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for spelling, rows in spellings.items():
        alike[identity(spelling) or spelling][visible(spelling)] += rows
    chosen = {key: min(counts, key=lambda name: (-counts[name], name)) for key, counts in alike.items()}
    chosen |= {key: name for key, name in _distinct(names).items() if key in chosen}
    return {spelling: chosen[identity(spelling) or spelling] for spelling in spellings}


def _distinct(names: Iterable[str]) -> dict[str, str]:
    listed = list(names)
    by_identity = {identity(name) or name: name for name in listed}
    return by_identity if len(by_identity) == len(listed) else {}


def identities(names: Iterable[str]) -> dict[str, str]:
    """Return labels by their identity; of several with one identity, the first."""
    by_identity: dict[str, str] = {}
    for name in names:
        by_identity.setdefault(identity(name) or name, name)
    return by_identity


def places(names: Iterable[str], labels: Sequence[str]) -> list[int | None]:
    """Return each name's place among labels: its own, or that of the first label it is one with; None for no place."""
    index_of = {label: i for i, label in reversed([*enumerate(labels)])}
    alike = {key: index_of[label] for key, label in identities(labels).items()}
    return [index_of.get(name, alike.get(identity(name) or name)) for name in names]
