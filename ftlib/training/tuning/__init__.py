"""Which weights move. Belongs to the train stage."""

from collections.abc import Callable
from typing import Annotated, get_args

from pydantic import Field

from ftlib.training.tuning.base import TuningBase
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.training.tuning.lora import LoRA

Tuning = Annotated[Full | FrozenLayers | LinearProbe | LoRA, Field(discriminator="kind")]


def tunings(holds: Callable[[type[TuningBase]], bool]) -> list[str]:
    """Return the tunings whose words hold, as recipes call them: what a message offers."""
    members: tuple[type[TuningBase], ...] = get_args(get_args(Tuning)[0])
    return [member.model_fields["kind"].default for member in members if holds(member)]
