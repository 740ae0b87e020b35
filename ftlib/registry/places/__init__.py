"""Where versions are published. Belongs to the register stage."""

from typing import Annotated

from pydantic import Field

from ftlib.registry.places.folder import Folder
from ftlib.registry.places.s3 import S3
from ftlib.storage import Place

Registry = Annotated[Folder | S3, Field(discriminator="kind")]

HERE: Registry = Folder()
"""Where a recipe that names no registry publishes."""


def registry_at(place: Place) -> Registry:
    """Return the registry in a place, as a recipe would name it."""
    if not place.remote:
        return Folder(path=place.key)
    return S3(bucket=place.bucket, prefix=place.prefix, endpoint_url=place.endpoint_url)
