"""What pulls at the weights beside the loss, once a step. Belongs to the train stage."""

from typing import Annotated

from pydantic import Field

from ftlib.training.penalties.ewc import EWC
from ftlib.training.penalties.l2_sp import L2SP
from ftlib.training.penalties.spd import SPD

Penalty = Annotated[L2SP | EWC | SPD, Field(discriminator="kind")]
