"""(start, end) to points between them. Belongs to the interpolate stage."""

from typing import Annotated

from pydantic import Field

from ftlib.interpolation.off import Off
from ftlib.interpolation.wise_ft import WiseFT

Interpolation = Annotated[Off | WiseFT, Field(discriminator="kind")]
