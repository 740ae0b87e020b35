"""What is served, and how: one value, which crosses to every replica."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ftlib.config import Config, Fraction, Name

LogInputs = Literal["none", "text"]
"""`none`: a log holds no word of what was asked, nor an answer that quotes it. `text`: it holds both."""


class ServingPlan(Config):
    """One model, served by an alias that may move, or as one version."""

    name: Name
    """The model."""
    which: str | int
    """The alias that is followed, or one version for good."""
    challenger: str | int | None = None
    """Another alias or version of the model, asked beside it."""
    share: Fraction = 0.0
    """The part of the inputs that the challenger answers, drawn by their request's id."""
    shadow: bool = False
    """Whether the challenger is asked all inputs, and its answers only logged."""

    registry: str
    """A folder or a bucket's prefix."""
    endpoint_url: str | None = None
    """The S3 server of registry and log, if it is not AWS."""
    key: str | None = None
    """The file of a public key; a version that it did not sign is not served."""
    bases: tuple[str, ...] = ()
    """Folders of models that adapters stand on, where they are not found by name."""

    batch_size: int = Field(default=32, ge=1)
    """Inputs in one forward pass."""
    max_new_tokens: int | None = Field(default=None, ge=1)
    num_beams: int | None = Field(default=None, ge=1, le=64)
    task: str | None = None
    """Which task of a version that has several."""

    poll_seconds: float = Field(default=2.0, gt=0.0)
    """How often the alias is looked at."""
    token_file: str | None = None
    """The file whose first line a caller must show as a bearer token; None lets everybody in."""
    log: str | None = None
    """Where answers are logged: a folder or a bucket's prefix."""
    log_inputs: LogInputs = "none"
    log_rows: int = Field(default=1000, ge=1)
    """Records of one file of the log."""
    log_seconds: float = Field(default=10.0, gt=0.0)
    """After so long a file is written with fewer."""

    most_bytes: int = Field(default=8 * 2**20, ge=1)
    """Of a request's body."""
    most_inputs: int = Field(default=256, ge=1)
    """Of one request."""

    @model_validator(mode="after")
    def _of_challenger(self) -> ServingPlan:
        if self.challenger is None and (self.share or self.shadow):
            raise ValueError("a share or a shadow is the challenger's, and none is named; name one")
        if self.challenger is not None and bool(self.share) == self.shadow:
            got = "both" if self.shadow else "neither"
            raise ValueError(f"a challenger answers a share of the inputs, or all in the shadow; got {got}, give one")
        if self.challenger == self.which:
            raise ValueError(f"champion and challenger are both {self.which!r}; name two")
        return self
