"""The recipe's `added_tokens`: tokens that a model's tokenizer has not, each with the row that it begins as."""

from __future__ import annotations

from pydantic import field_validator

from ftlib.config import Config


class AddedToken(Config):
    """A token that the base model's tokenizer learns to write as one."""

    token: str
    """How it is spelt, `<package>` for example."""
    like: str | None = None
    """Words whose tokens' rows it begins as the mean of; null: the mean of all rows."""
    special: bool = True
    """true: only templates write it, and a row's own text that spells it is read as characters. false: it is read
    wherever a text spells it."""

    @field_validator("token")
    @classmethod
    def _is_spelt(cls, token: str) -> str:
        if not token or token != token.strip():
            raise ValueError(f"got {token!r}, allowed is what is not empty and has no space at its ends")
        return token
