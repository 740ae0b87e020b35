"""Where versions are published. Belongs to the register stage."""

from typing import Annotated

from pydantic import Field

from ftlib.registry.places.folder import Folder
from ftlib.registry.places.s3 import S3

Registry = Annotated[Folder | S3, Field(discriminator="kind")]

HERE: Registry = Folder()
"""Where a recipe that names no registry publishes."""
