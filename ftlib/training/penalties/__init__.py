"""What pulls at the weights beside the loss, once a step. Belongs to the train stage."""

from ftlib.training.penalties.l2_sp import L2SP

Penalty = L2SP
"""A second member makes it `Annotated[L2SP | EWC, Field(discriminator="kind")]`; pydantic has no union of one."""
