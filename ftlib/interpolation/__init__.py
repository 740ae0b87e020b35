"""The last phase's ends, and siblings beside them, to candidates. Belongs to the interpolate stage."""

from typing import Annotated

from pydantic import Field

from ftlib.interpolation.dare import Dare
from ftlib.interpolation.model_stock import ModelStock
from ftlib.interpolation.off import Off
from ftlib.interpolation.slerp import Slerp
from ftlib.interpolation.soup import Soup
from ftlib.interpolation.task_arithmetic import TaskArithmetic
from ftlib.interpolation.ties import Ties
from ftlib.interpolation.wise_ft import WiseFT

Interpolation = Annotated[
    Off | WiseFT | Slerp | Soup | ModelStock | TaskArithmetic | Ties | Dare, Field(discriminator="kind")
]
