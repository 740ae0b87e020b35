"""How a row holds an image: `data:image/png;base64,...`, the bytes of its file, untouched.

A row stays JSON, so that ids, snapshots and lineage know nothing of images, and the same file has the same cell,
whether it came as a path, as bytes in parquet, or as text. What the media type says follows from the bytes alone.
"""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from ftlib.data.images.decoding import ImageError, decode, refusal, sniff

if TYPE_CHECKING:
    from PIL import Image

_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_SHORTEST = 32
"""Characters of base64: no image is smaller, and a file's name may be."""


def to_cell(data: bytes) -> str:
    """Return a file's bytes as a row holds them."""
    return f"data:{_media_type(data)};base64,{base64.b64encode(data).decode()}"


def is_cell(text: str) -> bool:
    """Say whether a text is one that `to_cell` made, or another data URI."""
    return text.startswith("data:")


def from_cell(cell: str) -> bytes:
    """Return the bytes of the file that a cell holds. Raises ImageError for a text that holds none."""
    head, comma, rest = cell.partition(",")
    if not head.startswith("data:") or not comma:
        raise refusal("not_an_image", f"holds {cell[:40]!r}, no data URI: data:image/png;base64,...")
    if not head.endswith(";base64"):
        return unquote_to_bytes(rest)
    try:
        return base64.b64decode(rest, validate=True)
    except ValueError:  # binascii.Error among them
        pass
    try:  # the alphabet of URLs, or lines: binascii by itself passes over what is no base64
        return base64.b64decode("".join(rest.split()).translate(_URL_SAFE), validate=True)
    except ValueError as error:
        raise refusal("broken_image", f"holds a data URI that is no base64: {error}; encode it again") from error


_URL_SAFE = str.maketrans("-_", "+/")


def image_in(cell: str) -> Image.Image:
    """Return a row's image, upright, in 8-bit RGB, transparency over white: to be looked at."""
    return decode(from_cell(cell)).image


def bare_base64(text: str) -> bytes | None:
    """Return the bytes of an image that stands as base64 alone, without `data:`; None for any other text."""
    if len(text) < _SHORTEST or not _BASE64.fullmatch(text):
        return None
    try:
        data = from_cell(f"data:;base64,{text}")
    except ImageError:
        return None
    return data if sniff(data) else None


def _media_type(data: bytes) -> str:
    kind = sniff(data)
    return f"image/{kind.lower()}" if kind else "application/octet-stream"
