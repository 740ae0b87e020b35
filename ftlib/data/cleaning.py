"""Text as it is trained on. When two texts count as the same says `ftlib.data.identity`."""

from __future__ import annotations

import re
import unicodedata

from pydantic import Field

from ftlib.config import Config

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


class Cleaning(Config):
    """What happens to a text before it is tokenised: Unicode NFC, control characters out, white space folded."""

    min_characters: int = Field(default=1, ge=1)
    """A cleaned text that is shorter is dropped."""
    deduplicate: bool = True
    """Drop rows whose cleaned, case-folded text was there before."""
    near_duplicates: float | None = Field(default=None, ge=0.6, lt=1.0)
    """Drop training rows whose text is at least this alike (Jaccard of runs of five characters) to a held-out row's,
    or to another training row's of the same label, and validation rows that are to a test row's; 0.8 is usual. Of
    images it is the share of a difference hash's 64 bits that agrees, 0.85 or more; 0.95 is usual. Unset: how alike
    honest rows are depends on them."""
