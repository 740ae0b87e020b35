"""Which weights move. Belongs to the train stage."""

from collections.abc import Callable
from typing import Annotated, get_args

from ftlib.extensions import Open, kind_of
from ftlib.training.tuning.base import TuningBase
from ftlib.training.tuning.frozen_layers import FrozenLayers
from ftlib.training.tuning.full import Full
from ftlib.training.tuning.gradual_unfreezing import GradualUnfreezing
from ftlib.training.tuning.houlsby import Houlsby
from ftlib.training.tuning.ia3 import IA3
from ftlib.training.tuning.linear_probe import LinearProbe
from ftlib.training.tuning.lora import LoRA
from ftlib.training.tuning.p_tuning import PTuning
from ftlib.training.tuning.prefix_tuning import PrefixTuning
from ftlib.training.tuning.prompt_tuning import PromptTuning
from ftlib.training.tuning.qlora import QLoRA
from ftlib.training.tuning.zero_shot import ZeroShot

Tuning = Annotated[
    Full
    | FrozenLayers
    | GradualUnfreezing
    | Houlsby
    | IA3
    | LinearProbe
    | LoRA
    | PTuning
    | PrefixTuning
    | PromptTuning
    | QLoRA
    | ZeroShot,
    Open("reglage.tuning"),
]


def tunings(holds: Callable[[type[TuningBase]], bool] = lambda _: True) -> list[str]:
    """Return the tunings whose words hold, as recipes call them: what a message or a form offers."""
    members: tuple[type[TuningBase], ...] = get_args(get_args(Tuning)[0])
    return [str(kind_of(member)) for member in members if holds(member)]
