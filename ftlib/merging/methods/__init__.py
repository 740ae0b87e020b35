"""Merge methods: several checkpoints' tensors to one. Arithmetic alone; points to try are in `interpolation/`."""

from typing import Annotated

from pydantic import Field

from ftlib.merging.methods.average import Average
from ftlib.merging.methods.dare import Dare
from ftlib.merging.methods.kernel import Kernel, Meter, Place
from ftlib.merging.methods.lerp import Lerp
from ftlib.merging.methods.model_stock import ModelStock
from ftlib.merging.methods.slerp import Slerp
from ftlib.merging.methods.task_arithmetic import TaskArithmetic
from ftlib.merging.methods.ties import Ties

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
