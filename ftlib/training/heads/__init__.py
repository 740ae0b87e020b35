"""The heads, one file each; a kind of batch has one."""

from ftlib.config import BatchKind
from ftlib.training.heads.base import Answers, Head, Targets
from ftlib.training.heads.completions import CompletionHead
from ftlib.training.heads.labels import LabelHead
from ftlib.training.heads.multi_labels import MultiLabelHead
from ftlib.training.heads.scores import ScoreHead
from ftlib.training.heads.spans import SpanHead
from ftlib.training.heads.tagged import TagHead
from ftlib.training.heads.tokens import TokenHead

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
