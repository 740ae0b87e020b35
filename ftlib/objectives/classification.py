"""Cross-entropy over labels."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from ftlib.config import BatchKind, Config


class Classification(Config):
    """Cross-entropy with optional label smoothing (Szegedy et al. 2016, arXiv 1512.00567)."""

    kind: Literal["classification"] = "classification"
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)

    needs: ClassVar[BatchKind] = "labeled"
