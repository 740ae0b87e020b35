"""Which tokens of a text are its own, and which of these a vocabulary does not know: alike at publishing and live."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Int


class OwnTokens(NamedTuple):
    """Counts the tokens of a text: those that a tokenizer puts around every text say nothing of this one."""

    special: tuple[int, ...]
    """Ids that are left out."""
    unknown: int | None
    """The id of what the vocabulary does not know; None where it knows every byte."""

    @classmethod
    def of(cls, tokenizer: Any) -> OwnTokens:
        """Return what counts a tokenizer's tokens."""
        around = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cls_token_id, tokenizer.sep_token_id)
        unknown = None if tokenizer.unk_token_id in around else tokenizer.unk_token_id  # GPT-2's is its end, too
        return cls(tuple(sorted({*tokenizer.all_special_ids} - {unknown})), unknown)

    def counts(self, ids: Sequence[int] | Int[np.ndarray, " tokens"]) -> tuple[int, int]:
        """Return how many tokens are not special, and how many of these are not known."""
        import numpy as np

        read = np.asarray(ids, np.int64)
        unknown = 0 if self.unknown is None else int((read == self.unknown).sum())
        return int((~np.isin(read, self.special)).sum()), unknown
