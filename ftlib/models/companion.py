"""Whether a frozen model can be asked the rows of the one that trains: a teacher, a reference, who writes answers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from ftlib.errors import ModelError
from ftlib.fingerprint import file_digest
from ftlib.models.checkpoint import Checkpoint, FoundModel
from ftlib.models.folder import IMAGE_PROCESSOR, PROCESSOR_FILES, labels_of
from ftlib.models.json_files import CHAT_TEMPLATE, read_json
from ftlib.wording import some

_OF_ROWS = {
    "tokenizer_config.json": ("split_special_tokens", "pad_token", "model_input_names", "chat_template"),
    IMAGE_PROCESSOR: ("size", "crop_size", "do_resize", "do_center_crop", "default_to_square", "resample"),
}
"""What files say of how rows are made, which is done once, by the model's: a published version has its recipe's words
there (`settle_processor`), and reads the same tokens as the model that it came from."""


def as_read_by(companion: FoundModel, model: FoundModel) -> FoundModel:
    """Return a companion as one that reads the model's inputs, where the files of both say that it does."""
    if companion.tokenizer == model.tokenizer or _inputs(companion.folder) != _inputs(model.folder):
        return companion
    return companion.model_copy(update={"tokenizer": model.tokenizer})


def _inputs(folder: Path) -> dict[str, object]:
    """Return what a folder's files say of a model's inputs, but for how rows are made."""
    said: dict[str, object] = {}
    for path in (folder / name for name in PROCESSOR_FILES if name != CHAT_TEMPLATE and (folder / name).is_file()):
        content = read_json(path) if path.name in _OF_ROWS else file_digest(path)
        if isinstance(content, dict):
            settings = cast("dict[str, object]", content)
            content = {name: value for name, value in settings.items() if name not in _OF_ROWS[path.name]}
        said[path.name] = content
    return said


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
