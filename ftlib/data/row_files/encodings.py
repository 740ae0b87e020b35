"""Guess the encoding of bytes that are not UTF-8."""

from __future__ import annotations

_EXCERPT = 12
"""Characters around the first odd byte that a message shows."""
_ENCODINGS = ("cp1252", "cp1250", "cp850", "macintosh")
_USUAL = frozenset("éèêëàâäáãåæçíìîïñóòôöõøœßúùûüÿÉÈÀÇÄÖÜÑÅØąćęłńśźżŁŚŻčďěňřšťůžőű’‘“”„–—…€£§°«»¿¡ ")


def not_utf8(data: bytes, start: int) -> str:
    """Say where a text is not UTF-8, and how to convert it if one can tell."""
    byte, line = data[start], data.rstrip(b"\r\n")
    problem = f"byte {start + 1}, 0x{byte:02x}, is not UTF-8"
    text = line.decode("utf-8", "replace")
    if sum(not character.isascii() for character in text) > 2 * text.count("\ufffd"):
        return f"{problem}, but the rest is: the text was cut within a character"
    encoding = _likely(line)
    if encoding is None:
        return f"{problem}; convert it from the encoding it was written in: iconv -f ENCODING -t UTF-8"
    around = line[max(0, start - _EXCERPT) : start + _EXCERPT].decode(encoding, "replace")
    return f"{problem}; in {encoding} it reads {around!r}: iconv -f {encoding} -t UTF-8"


def _likely(line: bytes) -> str | None:
    """Return the encoding in which the odd bytes are letters of western texts; None for what is mostly odd bytes.

    No text of these encodings has a NUL.
    """
    if b"\0" in line or sum(byte > 127 for byte in line) > sum(byte < 128 and chr(byte).isalpha() for byte in line):
        return None
    fits = {name: _usual(line.decode(name, "replace")) for name in _ENCODINGS}
    return max(_ENCODINGS, key=lambda name: fits[name])  # of equals the first, which is the most frequent


def _usual(text: str) -> int:
    """Count the characters that western texts have, where they have them: no capital follows a small letter."""
    pairs = zip(" " + text, text, strict=False)
    return sum(letter in _USUAL and not (letter.isupper() and before.islower()) for before, letter in pairs)
