"""Interpolations name candidates between the last phase's ends and their siblings. Belongs to the interpolate stage."""

from typing import Annotated

from ftlib.extensions import Open
from ftlib.merging.interpolation.blocks import Blocks
from ftlib.merging.interpolation.dare import Dare
from ftlib.merging.interpolation.graft import Graft
from ftlib.merging.interpolation.lines import Lines
from ftlib.merging.interpolation.model_stock import ModelStock
from ftlib.merging.interpolation.off import Off
from ftlib.merging.interpolation.slerp import Slerp
from ftlib.merging.interpolation.soup import Soup
from ftlib.merging.interpolation.task_arithmetic import TaskArithmetic
from ftlib.merging.interpolation.ties import Ties
from ftlib.merging.interpolation.wise_ft import WiseFT

Interpolation = Annotated[
    Off | WiseFT | Lines | Blocks | Slerp | Soup | ModelStock | TaskArithmetic | Ties | Dare | Graft,
    Open("reglage.interpolation"),
]

NO_INTERPOLATION: Interpolation = Off()
"""What a recipe that says nothing asks for."""
