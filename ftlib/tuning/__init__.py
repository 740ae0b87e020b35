"""Which weights move. Belongs to the train stage."""

from typing import Annotated

from pydantic import Field

from ftlib.tuning.frozen_layers import FrozenLayers
from ftlib.tuning.full import Full
from ftlib.tuning.linear_probe import LinearProbe
from ftlib.tuning.lora import LoRA

Tuning = Annotated[Full | FrozenLayers | LinearProbe | LoRA, Field(discriminator="kind")]
