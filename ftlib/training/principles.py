"""Principles that answers should keep to: plain sentences in a file, and what a model is asked about them."""

from __future__ import annotations

from ftlib.config import user_path
from ftlib.errors import RecipeError

CRITIQUE = 'Does your last answer keep to this principle: "{principle}" Answer Yes or No, and say in one sentence why.'
REVISION = (
    'Write your last answer again, so that it keeps to this principle: "{principle}" Write the answer and nothing else.'
)
PRINCIPLE = "{principle}"
"""What stands for a principle in what a model is asked."""


def read_principles(file: str) -> tuple[str, ...]:
    """Return a file's principles: its paragraphs where blank lines part them, else its lines; `#` begins a comment.

    Raises RecipeError for a file that cannot be read, is no UTF-8, holds none, or says one twice.
    """
    try:
        text = user_path(file).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise RecipeError(f"principles.file: {file}: {error.strerror}; name a file of plain sentences") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"principles.file: {file} is not UTF-8; write it as such") from error
    lines = [line.strip() for line in text.splitlines() if not line.lstrip().startswith("#")]
    paragraphs = [" ".join(block.split("\n")) for block in "\n".join(lines).split("\n\n") if block.strip()]
    found = tuple(" ".join(one.split()) for one in (paragraphs if len(paragraphs) > 1 else lines) if one.strip())
    if not found:
        raise RecipeError(f"principles.file: {file} holds no principle; write one plain sentence a line")
    if twice := [one for i, one in enumerate(found) if one in found[:i]]:
        raise RecipeError(f"principles.file: {file} says {twice[0]!r} twice; take one out")
    return found
