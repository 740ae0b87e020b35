"""Mean negative log-likelihood of the right label."""

from __future__ import annotations

from typing import ClassVar, Literal

from ftlib.config import BatchKind, Config


class LogLoss(Config):
    """Mean negative log-likelihood, in nats."""

    kind: Literal["log_loss"] = "log_loss"

    needs: ClassVar[BatchKind] = "labeled"
    higher_is_better: ClassVar[bool] = False
