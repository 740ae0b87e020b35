"""Check that a model has positions left for what it is to write."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ftlib.data.prepared import longest_prompt
from ftlib.errors import DataError


def check_room(name: str, max_new_tokens: int, prompts: Path, reads: Callable[[], int | None]) -> None:
    """Raise DataError if a model has no positions left for what it is to write after the longest of a split's prompts.

    `name` is what asks for it, such as an evaluation; `prompts` is the split's file. `reads` says how many tokens the
    model reads, if that has a limit; it is asked only where something is to be written.
    """
    if not max_new_tokens:
        return
    positions, longest = reads(), longest_prompt(prompts)
    if positions is not None and longest + max_new_tokens > positions:
        raise DataError(
            f"{name}: after a prompt of {longest} tokens, max_new_tokens: {max_new_tokens} goes beyond the "
            f"{positions} that the model reads; lower it, or the format's max_tokens"
        )
