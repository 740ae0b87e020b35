"""One label per image: image classification."""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import AutoModelForImageClassification

from ftlib.kinds.heads.labels import LabelHead


class ImageLabelHead(LabelHead):
    """One label an image, by transformers' image classifier."""

    auto_class: ClassVar[Any] = AutoModelForImageClassification
