"""Where versions are published. Belongs to the register stage."""

from typing import Annotated

from pydantic import Field

from ftlib.registries.folder import Folder
from ftlib.registries.s3 import S3

Registry = Annotated[Folder | S3, Field(discriminator="kind")]
