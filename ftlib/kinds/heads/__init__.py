"""The heads, one file each; a kind of batch has one (`ftlib.kinds.kind`)."""

from ftlib.kinds.heads.base import Answers, Head

__all__ = ["Answers", "Head"]
