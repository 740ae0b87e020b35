"""F1 averaged over labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.config import BatchKind, Config


class MacroF1(Config):
    """The unweighted mean of every label's F1, over the labels that occur; a label never predicted counts 0."""

    kind: Literal["macro_f1"] = "macro_f1"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = True
