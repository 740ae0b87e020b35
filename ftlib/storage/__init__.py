"""The only package that opens storage: a folder or a bucket of S3, GCS or Azure behind one small interface.

Everything a registry needs is built on one primitive, `create`: a small object that is written whole or not at all,
and by at most one of any number of writers. Locally that is link(2), on S3 and Azure `If-None-Match: *`, on GCS
`ifGenerationMatch=0`. The other conditional writes of S3 are broken or ignored on servers people run, so nothing here
uses them; a server that ignores this one too is found by `ftlib.registry.probe`.
"""

from collections.abc import Callable
from pathlib import Path

from ftlib.errors import StorageError
from ftlib.storage.azure import AzureBucket
from ftlib.storage.cloud import CloudBucket, CloudObjects, CloudStore
from ftlib.storage.gcs import GcsBucket
from ftlib.storage.local import LocalStore
from ftlib.storage.objects import S3Objects
from ftlib.storage.place import Place
from ftlib.storage.s3 import S3Store
from ftlib.storage.store import Objects, Store, safe_relpath

__all__ = ["LocalStore", "Objects", "Place", "S3Store", "Store", "open_objects", "open_store", "safe_relpath"]


def _s3(place: Place) -> Store:
    return S3Store(place.bucket, place.prefix, place.endpoint_url, kms_key=place.kms_key)


def _s3_objects(place: Place) -> Objects:
    return S3Objects(place.bucket, place.endpoint_url)


def _gcs(place: Place) -> CloudBucket:
    return GcsBucket(place.bucket, kms_key=place.kms_key)


def _azure(place: Place) -> CloudBucket:
    return AzureBucket(place.bucket, kms_key=place.kms_key)


_CLOUDS: dict[str, Callable[[Place], CloudBucket]] = {"gs": _gcs, "abfs": _azure}
_STORES: dict[str, Callable[[Place], Store]] = {"s3": _s3}
_OBJECTS: dict[str, Callable[[Place], Objects]] = {"s3": _s3_objects}


def open_store(place: Place) -> Store:
    """Open a place to write to: objects that are whole or absent. Touches nothing yet."""
    if not place.remote:
        return LocalStore(Path(place.key))
    if place.scheme in _CLOUDS:
        return CloudStore(_CLOUDS[place.scheme](place), place.prefix)
    return _STORES[place.scheme](place)


def open_objects(place: Place) -> Objects:
    """Open a bucket that others write to, to read it as it is listed. Raises StorageError for a folder."""
    if not place.remote:
        raise StorageError(f"{place.uri!r} is in no bucket")
    if place.scheme in _CLOUDS:
        return CloudObjects(_CLOUDS[place.scheme](place))
    return _OBJECTS[place.scheme](place)
