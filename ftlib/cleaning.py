"""Text as it is trained on. When two texts count as the same says `ftlib.identity`."""

from __future__ import annotations

import re
import unicodedata

# Control characters but for white space, and the byte order mark that survives concatenated files.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")
_MANY_LINES = re.compile(r"\n{3,}")


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Return the text in Unicode NFC, without control characters, white space folded; cleaning twice changes nothing.

    With `keep_lines` line breaks and indentation stay, since a language model learns them; only blanks at the ends of
    lines and more than one empty line in a row are folded.
    """
    # NFC last of the two: taking out a control character can bring a letter and its accent together.
    text = unicodedata.normalize("NFC", _CONTROL.sub("", text))
    if not keep_lines:
        return " ".join(text.split())
    text = "\n".join(line.rstrip() for line in text.splitlines())
    return _MANY_LINES.sub("\n\n", text).strip("\n")
