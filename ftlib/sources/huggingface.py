"""Hugging Face datasets, saved on disk or by name."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class HuggingFace(Config):
    """Rows from `datasets`: a folder made by `save_to_disk`, or a name on the hub with a pinned revision."""

    kind: Literal["huggingface"] = "huggingface"
    path: str
    split: str = "train"
    revision: str | None = None
    """A commit hash; required for a name on the hub, since a branch gives other rows tomorrow."""
