"""Merge methods make one tensor of several checkpoints' tensors. `interpolation/` names the points to try."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, get_args

from pydantic import Field

from ftlib.extensions import kind_of
from ftlib.merging.methods.average import Average
from ftlib.merging.methods.blocks import Blocks
from ftlib.merging.methods.dare import Dare
from ftlib.merging.methods.graft import Graft
from ftlib.merging.methods.kernel import Chunk, Kernel, Meter
from ftlib.merging.methods.lerp import Lerp
from ftlib.merging.methods.lines import Lines
from ftlib.merging.methods.model_stock import ModelStock
from ftlib.merging.methods.slerp import Slerp
from ftlib.merging.methods.task_arithmetic import TaskArithmetic
from ftlib.merging.methods.ties import Ties

__all__ = [
    "METHODS",
    "Average",
    "Blocks",
    "Chunk",
    "Dare",
    "Graft",
    "Kernel",
    "Lerp",
    "Lines",
    "Merge",
    "Meter",
    "ModelStock",
    "Slerp",
    "TaskArithmetic",
    "Ties",
]

Merge = Annotated[
    Lerp | Lines | Blocks | Slerp | Average | ModelStock | TaskArithmetic | Ties | Dare | Graft,
    Field(discriminator="kind"),
]

_MEMBERS: tuple[type[Kernel], ...] = get_args(get_args(Merge)[0])
METHODS: Mapping[str, type[Kernel]] = MappingProxyType({str(kind_of(method)): method for method in _MEMBERS})
"""Every method by its name."""
