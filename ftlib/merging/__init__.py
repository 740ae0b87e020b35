"""Merge methods: several checkpoints' tensors to one. Pure arithmetic; points to try are `ftlib/interpolation/`."""

from typing import Annotated

from pydantic import Field

from ftlib.merging.average import Average
from ftlib.merging.dare import Dare
from ftlib.merging.kernel import Kernel, Meter, Place
from ftlib.merging.lerp import Lerp
from ftlib.merging.model_stock import ModelStock
from ftlib.merging.slerp import Slerp
from ftlib.merging.task_arithmetic import TaskArithmetic
from ftlib.merging.ties import Ties

__all__ = [
    "Average",
    "Dare",
    "Kernel",
    "Lerp",
    "Merge",
    "Meter",
    "ModelStock",
    "Place",
    "Slerp",
    "TaskArithmetic",
    "Ties",
]

Merge = Annotated[
    Lerp | Slerp | Average | ModelStock | TaskArithmetic | Ties | Dare,
    Field(discriminator="kind"),
]
