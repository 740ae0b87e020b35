"""Which weights move. Belongs to the train stage."""

from typing import Annotated

from ftlib.extensions import Open
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.training.tuning.lora import LoRA

Tuning = Annotated[Full | FrozenLayers | LinearProbe | LoRA, Open("reglage.tuning")]
