"""The heads, one file each; a kind of batch has one."""

from ftlib.config import BatchKind
from ftlib.kinds.heads.base import Answers, Head
from ftlib.kinds.heads.completions import CompletionHead
from ftlib.kinds.heads.labels import LabelHead
from ftlib.kinds.heads.multi_labels import MultiLabelHead
from ftlib.kinds.heads.scores import ScoreHead
from ftlib.kinds.heads.spans import SpanHead
from ftlib.kinds.heads.tagged import TagHead
from ftlib.kinds.heads.tokens import TokenHead
from ftlib.kinds.targets import Targets

__all__ = ["Answers", "Head", "Targets", "head_of"]


def head_of(kind: BatchKind) -> Head:
    """Return the head that a kind of batch asks for."""
    match kind:
        case "labeled":
            return LabelHead()
        case "tagged":
            return TagHead()
        case "spans":
            return SpanHead()
        case "tokens":
            return TokenHead()
        case "completions":
            return CompletionHead()
        case "multi_labeled":
            return MultiLabelHead()
        case "scored":
            return ScoreHead()
