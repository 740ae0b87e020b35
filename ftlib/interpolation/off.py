"""No interpolation: the last phase's end is the only candidate."""

from __future__ import annotations

from typing import Literal

from ftlib.config import Config


class Off(Config):
    """Only the last phase's end is a candidate."""

    kind: Literal["off"] = "off"
