"""The recipe's `publish`: under which name, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

from pydantic import Field

from ftlib.config import Config, Name
from ftlib.registry.places import HERE, Registry
from ftlib.storage import Store, open_store


class CarriedFisher(Config):
    """The rows on which the published model's Fisher information is measured, which its version then carries."""

    datasets: tuple[Name, ...] = Field(min_length=1)
    """Datasets that phases train on."""
    rows: int = Field(default=1000, gt=0)
    """How many training rows of each at most, drawn by the recipe's seed."""


class Publish(Config):
    """Under which name a version is published, and where."""

    introduced: ClassVar[Mapping[str, object]] = {"fisher": None}

    name: Name
    """What versions are called: NAME@1, NAME@2 and so on."""
    to: Registry = HERE
    """The registry; by default the folder `registry` here."""
    description: str = ""
    """The first sentence of the model card; empty, one is made from the recipe."""
    license: str | None = None
    """The SPDX identifier that the model card names; unset, it names none."""
    shard_mb: float = Field(default=256.0, gt=0.0)
    """Weights are cut into files of at most this many megabytes, at borders that stay from version to version."""
    sign_with: str | None = None
    """A private key (PEM, ECDSA on P-256) that signs the manifest."""
    adapter: bool = False
    """Also publish the last phase's adapter, moved to the chosen alpha: for servers that hold many over one base."""
    fisher: CarriedFisher | None = None
    """Also publish which weights these rows need, so that a later run that starts from the version can keep them by the
    penalty `ewc`, without the rows. It takes as many bytes as the weights in float32."""

    def store(self, kms_key: str | None) -> Store:
        """Open the registry, to be written with a key if there is one; nothing is touched yet."""
        return open_store(replace(self.to.place(), kms_key=kms_key))
