"""Personal data in rows, by patterns that are simple and stated: what is counted, refused or redacted at ingestion.

    credentials   user:password before the @ of a URL
    e-mail        one @ between a name and a host with a dot
    iban          the length of its country and check digits modulo 97 (ISO 13616)
    nir           the French social security number with its key (97 - number modulo 97; 2A and 2B are 19 and 18)
    card          a payment card's number: first digits and length of a network, check digit by Luhn (ISO/IEC 7812)
    phone         in international form: + or 00, then 8 to 15 digits
    ip            an IPv4 or IPv6 address

Names, addresses and dates of birth have no pattern: docs/protection.md says what is missed, and what is found that is
no personal data. A stretch of text counts for the first kind that takes it, in this order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from types import MappingProxyType
from typing import Literal, get_args

from ftlib.config import Config
from ftlib.data.rows import Value, need_column

PersonalKind = Literal["credentials", "e-mail", "iban", "nir", "card", "phone", "ip"]
PersonalAction = Literal["ignore", "count", "refuse", "redact"]
Counts = dict[str, dict[PersonalKind, int]]
"""Matches by column and kind."""
KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)


class PersonalData(Config):
    """What happens to personal data in the rows, when they are ingested.

    ignore   it is not looked for
    count    it is counted by column and kind, and nothing changes
    refuse   the row is a bad one: quarantine has its place and the kinds, not its text
    redact   it is replaced before anything is written: `[e-mail]`
    """

    every_column: PersonalAction = "count"
    """What happens in each column that `columns` does not name. The dataset's `key` and `updated` are never redacted by
    it: rows would not be told apart."""
    columns: dict[str, PersonalAction] = {}
    """What happens in these columns instead."""
    kinds: tuple[PersonalKind, ...] = KINDS
    """What is looked for."""

    def action(self, column: str) -> PersonalAction:
        """Return what happens in a column."""
        return self.columns.get(column, self.every_column)


@dataclass(frozen=True)
class _Pattern:
    kind: PersonalKind
    found: re.Pattern[str]
    holds: Callable[[str], bool] = lambda _: True
    """Whether a stretch that looks so is one: its check digits."""
    before: re.Pattern[str] | None = None
    """What stands before it and belongs to it: to look for that first would try every word."""


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdecimal())


def _alike(text: str) -> str:
    return "".join(c for c in text if c.isalnum()).upper()


def luhn(digits: str) -> bool:
    """Say whether the last digit checks those before it: every second from the right is doubled (ISO/IEC 7812-1)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        one = int(digit) * (1 + place % 2)
        total += one - 9 * (one > 9)
    return total % 10 == 0


_NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"
    r"|(?:5[1-5]|2[2-7])\d{14}"
    r"|3[47]\d{13}"
    r"|3(?:0[0-5]|[68]\d)\d{11,16}"
    r"|6(?:011|[245]\d\d)\d{12,15}"
    r"|35\d{14}"
)
"""Visa, Mastercard and Mir, American Express, Diners, Discover with UnionPay and Maestro, JCB."""


def card_number(text: str) -> bool:
    """Say whether a text is the number of a payment card."""
    digits = _digits(text)
    return _NETWORKS.fullmatch(digits) is not None and luhn(digits)


IBAN_LENGTHS: Mapping[str, int] = MappingProxyType(
    {
        country: length
        for length, countries in {
            15: "NO", 16: "BE", 18: "DK FO FI GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
            21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
            24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM",
            28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC",
            33: "RU",
        }.items()
        for country in countries.split()
    }
)  # fmt: skip
"""Characters of an IBAN by country, of the registry of ISO 13616."""


def iban(text: str) -> bool:
    """Say whether a text is an IBAN: of its country's length, and 1 modulo 97 with its front behind its end."""
    signs = _alike(text)
    if IBAN_LENGTHS.get(signs[:2]) != len(signs) or not signs.isascii():
        return False
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


def nir(text: str) -> bool:
    """Say whether a text is a French social security number: 13 signs and a key of two."""
    signs = _alike(text)
    number, key = signs[:-2].replace("2A", "19", 1).replace("2B", "18", 1), signs[-2:]
    if signs[5:7] not in ("2A", "2B"):
        number = signs[:-2]
    return number.isdecimal() and len(signs) == 15 and 97 - int(number) % 97 == int(key)


def _phone(text: str) -> bool:
    digits = _digits(text).removeprefix("00") if text.startswith("00") else _digits(text)
    return 8 <= len(digits) <= 15


def _ipv4(text: str) -> bool:
    try:
        IPv4Address(text)
    except AddressValueError:
        return False
    return True


def _ipv6(text: str) -> bool:
    """Take only what has three groups or more: `a::b` and `::1` are more often code than somebody's machine."""
    try:
        IPv6Address(text)
    except AddressValueError:
        return False
    return sum(map(bool, text.split(":"))) >= 3 and any(c.isdecimal() for c in text)


def _ibans() -> str:
    """Return a pattern of what has an IBAN's shape; of one length for each country, so that it ends where one does."""
    by_length: dict[int, list[str]] = {}
    for country, length in IBAN_LENGTHS.items():
        by_length.setdefault(length, []).append(country)
    shapes = (rf"(?:{'|'.join(c)})\d\d(?:[ -]?[A-Z0-9]){{{n - 4}}}" for n, c in sorted(by_length.items()))
    return rf"(?<![^\W_])(?:{'|'.join(shapes)})(?![^\W_])"


# Each begins with what it looks for, and looks behind that afterwards: so `re` passes over other characters quickly.
_GAP = r"[ .\u00a0\u202f-]?"
_HOST = r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![\w-])"
_TWO = "[0-9][0-9]"
_NIR = rf"[1-478](?<!\w.)(?:{_GAP}{_TWO}){{2}}{_GAP}(?:{_TWO}|2[ABab])(?:{_GAP}{_TWO}[0-9]){{2}}{_GAP}{_TWO}(?!\w)"
_CARD = r"[2-6](?<![\w.,+-].)[0-9]{2,3}(?:[ -]?[0-9]){9,15}(?![ -]?[0-9])(?!\w)"
_PHONE = r"[+0](?<![\w+.].)(?:(?<=\+)|(?<=0)0)[1-9](?:[ .\u00a0\u202f()/-]{0,2}[0-9]){7,14}(?!\w)"
_IPV4 = r"[0-9](?<![\w.].)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)"
_IPV6 = r"(?<![\w:.])[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?![\w:])"
_LONGEST_NAME = 64
"""Characters before the @ of an e-mail address."""
_PATTERNS = (
    _Pattern("credentials", re.compile(r"(?<=://)[^\s/:@\"'<>]{1,128}:[^\s/@\"'<>]{1,128}(?=@)")),
    _Pattern("e-mail", re.compile(_HOST), before=re.compile(r"[\w.%+-]+\Z")),
    _Pattern("iban", re.compile(_ibans(), re.IGNORECASE | re.ASCII), iban),
    _Pattern("nir", re.compile(_NIR), nir),
    _Pattern("card", re.compile(_CARD), card_number),
    _Pattern("phone", re.compile(_PHONE), _phone),
    _Pattern("ip", re.compile(_IPV4), _ipv4),
    _Pattern("ip", re.compile(_IPV6), _ipv6),
)
_CREDENTIALS, _EMAIL, _IBAN, _NIRS, _CARDS, _PHONES, _OF_IPV4, _OF_IPV6 = _PATTERNS
_OF_NUMBERS = tuple(pattern for pattern in _PATTERNS if pattern.kind in ("nir", "card"))
"""Kinds that a column of whole numbers may hold."""
_FEWEST_OF_A_NUMBER = 10**11


# What a text must have before a pattern is tried: looked for in copies with one sign for each class of bytes, by a few
# searches for a fixed string, since most texts have a date or a number and no personal data. A gap is whatever a
# pattern allows between digits; without the gaps a date is a run of 8 digits, with the time behind it of 10. Letters
# are another sign than what is looked for, wherever they can be: so `in` skips them.
_DIGITS, _LETTERS = b"0123456789", b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_DIGIT = bytes.maketrans(_DIGITS, b"0" * 10)
_WORDS = bytes.maketrans(_DIGITS + _LETTERS, b"0" * 10 + b"a" * 52)
_NUMBERS = bytes.maketrans(_DIGITS + _LETTERS + b"ABab", b"0" * 10 + b"x" * 52 + b"aaaa")
_GAPS = b" .()/-" + "\u00a0\u202f".encode()
_SHORTEST = 6
"""Characters of the shortest text in which anything is found: a@b.cd."""
_FEWEST_DIGITS, _IN_ADDRESS, _IN_NIR = 7, 4, 14
"""Of all numbers but an IPv4 address, of that (which is 7 characters long), and of a NIR of Corsica: with 2A or 2B."""
_IN_IBANS = re.compile(r"\d\d(?<=[A-Za-z]{2}..)(?:[ -]?[A-Za-z0-9]){11}", re.ASCII)
_IN_IPV4 = re.compile(r"\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
_IN_IPV6 = re.compile(r":(?::|(?:[0-9A-Fa-f]{1,4}:){6})")
"""Two colons that leave groups out, or all seven: a time has neither."""


def _candidates(text: str) -> Sequence[_Pattern]:
    """Return the patterns that may find something in a text, in their order; of most texts, quickly, none."""
    data = text.encode("utf-8", "replace")
    digit = data.translate(_DIGIT)  # those of other scripts are none
    first, last = digit.find(b"0"), digit.rfind(b"0")
    patterns: Sequence[_Pattern] = ()
    if last - first >= _FEWEST_DIGITS - 1 and (digits := digit.count(b"0", first)) >= _IN_ADDRESS:
        patterns = _of_digits(text, data[max(0, first - 2) : last + 1], digits)
    if "@" in text:
        patterns = (_CREDENTIALS, _EMAIL, *patterns)
    if (colon := text.find(":")) >= 0 and text.rfind(":") > colon and _IN_IPV6.search(text, colon):
        patterns = (*patterns, _OF_IPV6)
    return patterns


def _of_digits(text: str, data: bytes, digits: int) -> Sequence[_Pattern]:
    """Return the patterns of digits that may find something in a text's bytes around its first and last digit."""
    patterns: list[_Pattern] = []
    if digits >= _FEWEST_DIGITS:
        if b"aa00" in data.translate(_WORDS) and _IN_IBANS.search(text):
            patterns.append(_IBAN)
        run = data.translate(_NUMBERS, _GAPS)
        ten = b"0000000000" in run
        if ten and b"000000000000" in run:
            patterns += (_NIRS, _CARDS)
        elif digits >= _IN_NIR and b"0a00000000" in run:
            patterns.append(_NIRS)
        if (ten and "00" in text) or (b"+" in run and b"+00000000" in run):
            patterns.append(_PHONES)
    if data.count(b".") > 2 and _IN_IPV4.search(text):
        patterns.append(_OF_IPV4)
    return patterns


def redact(text: str, kinds: frozenset[PersonalKind], counts: dict[PersonalKind, int]) -> str:
    """Return a text with its personal data replaced by `[kind]`, counting each match."""
    for pattern in _candidates(text):
        if pattern.kind in kinds:
            text = _replaced(text, pattern, counts)
    return text


def _replaced(text: str, pattern: _Pattern, counts: dict[PersonalKind, int]) -> str:
    """Return a text without what one pattern finds, counting each match."""
    pieces: list[str] = []
    end = 0
    for match in pattern.found.finditer(text):
        start = match.start()
        if pattern.before is not None:
            name = pattern.before.search(text, max(end, start - _LONGEST_NAME), start)
            start = -1 if name is None else name.start()
        if start < 0 or not pattern.holds(match[0]):
            continue
        counts[pattern.kind] = counts.get(pattern.kind, 0) + 1
        pieces += (text[end:start], f"[{pattern.kind}]")
        end = match.end()
    return "".join((*pieces, text[end:])) if pieces else text


class PersonalDataSearch:
    """Looks through rows as they are read; counts what there is, and says of each row what becomes of it."""

    def __init__(self, asked: PersonalData, leave: frozenset[str], never_redacted: frozenset[str]) -> None:
        self.asked = asked
        self.leave = leave
        """Columns that hold no text: images."""
        self.never_redacted = never_redacted
        self.counts: Counts = {}
        self.kinds = frozenset(asked.kinds)
        self.unseen = {*asked.columns}
        """Columns that the recipe names, and no row has had so far."""
        actions = {asked.every_column, *asked.columns.values()} if asked.kinds else {"ignore"}
        self.looks = actions != {"ignore"}
        self.hides = bool(actions & {"refuse", "redact"})

    def look(self, values: dict[str, Value]) -> tuple[dict[str, Value], str | None, list[PersonalKind]]:
        """Return a row's values as they are kept, the column for which the row is refused, and what that holds."""
        if self.unseen:
            self.unseen -= values.keys()
        kept: dict[str, Value] | None = None
        for name, value in values.items():
            if _is_plain(value) or name in self.leave:
                continue
            action = self.asked.action(name)
            if action == "ignore":
                continue
            counts: dict[PersonalKind, int] = {}
            redacted = self._redacted(value, counts)
            if not counts:
                continue
            column = self.counts.setdefault(name, {})
            for kind, count in counts.items():
                column[kind] = column.get(kind, 0) + count
            if action == "refuse":
                return values, name, [*counts]
            if action == "redact" and name not in self.never_redacted:
                kept = kept or {**values}
                kept[name] = redacted
        return values if kept is None else kept, None, []

    def merge(self, other: PersonalDataSearch) -> None:
        """Add what was seen in other rows of the same dataset."""
        self.unseen &= other.unseen
        for name, kinds in other.counts.items():
            column = self.counts.setdefault(name, {})
            for kind, count in kinds.items():
                column[kind] = column.get(kind, 0) + count

    def safe(self, text: str) -> str:
        """Return a text about a bad row, which may quote it, without personal data where rows are not to show it."""
        return redact(text, self.kinds, {}) if self.hides else text

    def _redacted(self, value: Value, counts: dict[PersonalKind, int]) -> Value:
        if isinstance(value, str):
            return redact(value, self.kinds, counts)
        if isinstance(value, dict):
            return self._object(value, counts)
        if isinstance(value, list):
            return [self._redacted(one, counts) for one in value]
        if isinstance(value, int) and value >= _FEWEST_OF_A_NUMBER:
            for pattern in _OF_NUMBERS:
                if pattern.kind in self.kinds and pattern.found.fullmatch(str(value)) and pattern.holds(str(value)):
                    counts[pattern.kind] = counts.get(pattern.kind, 0) + 1
                    return f"[{pattern.kind}]"
        return value

    def _object(self, value: dict[str, Value], counts: dict[PersonalKind, int]) -> dict[str, Value]:
        """Return an object with its names redacted too; of two that become the same, the later one is numbered."""
        kept: dict[str, Value] = {}
        for name, one in value.items():
            shown = hidden = redact(name, self.kinds, counts)
            number = 1
            while shown in kept or (shown != name and shown in value):
                number += 1
                shown = f"{hidden} {number}"
            kept[shown] = self._redacted(one, counts)
        return kept


def _is_plain(value: Value) -> bool:
    """Say of most values, quickly, that nothing can be found in them."""
    if type(value) is str:
        return len(value) < _SHORTEST or not _candidates(value)
    return value is None or type(value) is float or (type(value) is int and value < _FEWEST_OF_A_NUMBER)


def said(counts: Counts) -> list[str]:
    """Write what was counted, a line a column: `text: 3 e-mail, 1 phone`."""
    lines: list[str] = []
    for column, kinds in sorted(counts.items()):
        most_first = sorted(kinds.items(), key=lambda kind: (-kind[1], kind[0]))
        lines.append(f"{column}: {', '.join(f'{count:,} {kind}' for kind, count in most_first)}")
    return lines


def check_seen(unseen: Collection[str], columns: Collection[str], where: str) -> None:
    """Raise DataError for columns that a recipe wants looked at and no row has: what is misspelt hides nothing."""
    for column in sorted(unseen):
        need_column(column, columns, f"{where}.personal_data.columns")
