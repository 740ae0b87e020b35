"""fsspec's filesystem of a place, whose own file methods the benchmark compares with ours."""

from __future__ import annotations

from typing import Any

from ftlib.storage.azure import account
from ftlib.storage.cloud_errors import needs_extra
from ftlib.storage.gcs import token
from ftlib.storage.place import Place

_FRESH: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
"""Another process may have written a moment ago, and fsspec's instances are shared, with what they listed."""


def filesystem_of(place: Place) -> tuple[Any, str]:
    """Return fsspec's filesystem, and the place's path in it. It can be pickled, and touches nothing yet.

    Raises StorageError if a package is missing.
    """
    if not place.remote:
        from fsspec.implementations.local import LocalFileSystem

        return LocalFileSystem(), place.key
    container, _, host = place.bucket.partition("@")
    return _OPENED[place.scheme](place, host), f"{container}/{place.prefix}".rstrip("/")


def _s3(place: Place, _: str) -> Any:
    from s3fs import S3FileSystem

    return S3FileSystem(
        endpoint_url=place.endpoint_url,
        default_fill_cache=False,
        # a part of a large file is 16 MiB, of which it holds a few: its own 50 MiB made 2 GB of a gigabyte's upload
        default_block_size=16 * 2**20,
        config_kwargs={
            "retries": {"mode": "standard", "total_max_attempts": 4},
            "connect_timeout": 5,
            "read_timeout": 60,
            "max_pool_connections": 32,
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
        },
        **_FRESH,
    )


def _gcs(place: Place, _: str) -> Any:
    try:
        from gcsfs.core import GCSFileSystem  # gcsfs.GCSFileSystem asks by gRPC for the bucket's kind, and may hang
    except ImportError as error:
        raise needs_extra("gs", "gcsfs", "gcs", error) from error
    return GCSFileSystem(token=token(), **_FRESH)


def _azure(place: Place, host: str) -> Any:
    try:
        from adlfs import AzureBlobFileSystem
    except ImportError as error:
        raise needs_extra("abfs", "adlfs", "azure", error) from error
    return AzureBlobFileSystem(**account(place.root, host), **_FRESH)


_OPENED = {"s3": _s3, "gs": _gcs, "abfs": _azure}
