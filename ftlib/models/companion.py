"""Whether a frozen model can be asked the rows of the one that trains: a teacher, a reference, who writes answers."""

from __future__ import annotations

from ftlib.errors import ModelError
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import labels_of
from ftlib.wording import some


def check_companion(where: str, companion: FoundModel | Checkpoint, tokenizer: str, labels: tuple[str, ...]) -> None:
    """Raise ModelError for a companion that reads other inputs than the model, or answers with other labels.

    `tokenizer` is the digest of what makes the model's inputs, `labels` are in the order of its logits; none where
    the two need not answer with the same ones.
    """
    if companion.tokenizer != tokenizer:
        raise ModelError(
            f"{where}: its tokenizer or image processor is not the model's, and rows are prepared once, for the model; "
            "choose a companion with the same files of them"
        )
    theirs = companion.labels if isinstance(companion, Checkpoint) else labels_of(companion.folder)
    if labels and theirs != labels:
        raise ModelError(
            f"{where}: its labels are {some(theirs) or 'none'}, the model's {some(labels)}, in that order; choose a "
            "companion with a head for the same ones"
        )
