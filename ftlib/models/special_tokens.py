"""Special tokens that users' texts spell: kept from being read as such, and counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from tokenizers import Regex, pre_tokenizers


def special_tokens(tokenizer: Any) -> list[str]:
    """Return how every special token of a tokenizer is spelt."""
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*tokenizer.all_special_tokens, *map(str, added)})


def kept_apart(tokenizer: Any) -> Any:
    """Return the tokenizer, so that `split_special_tokens` splits the special tokens that its vocabulary spells, too.

    transformers does not look for them then, but vocabularies of SentencePiece hold `</s>` as a piece like any other
    (T5, XLM-R, ALBERT), which is taken where a text spells it. So such a spelling is cut behind its first character.
    Texts without one have the same tokens as before.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    spelt = [token for token in special_tokens(tokenizer) if len(token) > 1 and _is_read(tokenizer, token)]
    if backend is None or not spelt:
        return tokenizer
    pattern = "|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in spelt)
    cut = pre_tokenizers.Split(Regex(pattern), "isolated")
    own = backend.pre_tokenizer
    backend.pre_tokenizer = cut if own is None else pre_tokenizers.Sequence([own, cut])
    return tokenizer


def _is_read(tokenizer: Any, token: str) -> bool:
    read: list[int] = tokenizer(token, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
    return tokenizer.convert_tokens_to_ids(token) in read


class Spelling:
    """Finds special tokens in texts."""

    def __init__(self, tokenizer: Any) -> None:
        """Prepare for a tokenizer's."""
        longest_first = sorted(special_tokens(tokenizer), key=lambda token: (-len(token), token))
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def found(self, texts: Sequence[str]) -> set[str]:
        """Return the special tokens that these texts spell."""
        return {token for text in texts for token in self._pattern.findall(text)}
