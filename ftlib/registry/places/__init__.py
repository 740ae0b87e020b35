"""Where versions are published. Belongs to the register stage."""

from typing import Annotated

from pydantic import Field

from ftlib.registry.places.azure import Azure
from ftlib.registry.places.folder import Folder
from ftlib.registry.places.gcs import Gcs
from ftlib.registry.places.s3 import S3
from ftlib.storage import Place

Registry = Annotated[Folder | S3 | Gcs | Azure, Field(discriminator="kind")]

HERE: Registry = Folder()
"""Where a recipe that names no registry publishes."""


def registry_at(place: Place) -> Registry:
    """Return the registry in a place, as a recipe would name it."""
    if not place.remote:
        return Folder(path=place.key)
    if place.scheme == "s3":
        return S3(bucket=place.bucket, prefix=place.prefix, endpoint_url=place.endpoint_url)
    if place.scheme == "gs":
        return Gcs(bucket=place.bucket, prefix=place.prefix)
    container, _, account = place.bucket.partition("@")
    return Azure(container=container, account=account or None, prefix=place.prefix)
