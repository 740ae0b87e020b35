"""Columns that hold images, as rows are read: whatever a cell was, it becomes the image's bytes as a data URI.

bytes                               parquet
{"bytes": ..., "path": ...}         parquet, as `datasets` writes it; the path counts where there are no bytes
data:image/png;base64,...           a text
iVBORw0KGgo...                      base64 alone
photos/1.jpg                        the path of a file
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

from msgspec import structs

from ftlib.data.images.cells import bare_base64, from_cell, is_cell, to_cell
from ftlib.data.images.decoding import ImageError, decode, refusal
from ftlib.data.rows import BadRow, Row, Value, Values

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Of files that hold what is decoded."""
OTHER_SUFFIXES = (".svg", ".svgz", ".eps", ".pdf", ".heic", ".avif", ".ico", ".psd", ".jp2")
"""Of files that people take for images and that are refused with a remedy: passing over them would lose rows unsaid."""

FileReader = Callable[[str, str], bytes]
"""Takes the URI of a row's file and a path in a cell of it; returns the image file's bytes, or raises ImageError."""


def taken_from(columns: Sequence[str]) -> dict[str, Callable[[Any], Any]]:
    """Return what makes values of a table's image cells, which may be bytes, by the columns' names."""
    return dict.fromkeys(columns, _value)


def _value(cell: Any) -> Any:
    if isinstance(cell, bytes):
        return to_cell(cell)
    if isinstance(cell, dict) and isinstance(data := cast("dict[str, Any]", cell).get("bytes"), bytes):
        return to_cell(data)
    return cell


def with_images(row: Row | BadRow, columns: Sequence[str], read: FileReader) -> Row | BadRow:
    """Return a row whose image cells hold the images' bytes, or why one of them does not."""
    if isinstance(row, BadRow):
        return row
    files = 0
    for name in columns:
        if (cell := row.values.get(name)) is not None:
            try:
                data = _in_cell(cell)
                if isinstance(data, str):
                    data = read(row.uri, data)
                    files += len(data)
            except ImageError as error:
                return bad_image(row, name, error)
            row.values[name] = to_cell(data)
    return structs.replace(row, bytes=row.bytes + files) if files else row


def _in_cell(value: Value) -> bytes | str:
    """Return the bytes that a cell holds, or the path that it names. Raises ImageError for neither."""
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if not isinstance(value, str):
        shown = str(value)[:40]
        raise refusal("not_an_image", f"holds {type(value).__name__} {shown!r}; write bytes, base64 or a file's path")
    data = from_cell(value) if is_cell(value) else bare_base64(value)
    return value if data is None else data


def bad_image(row: Row, column: str, error: ImageError) -> BadRow:
    """Return a row with an image that is none as a bad one."""
    return BadRow(row.uri, row.line, row.bytes, error.reason, f"column {column!r} {error}", column)


def unreadable(row: Row, columns: Sequence[str], values: Values, pixels: int) -> BadRow | None:
    """Return a row as a bad one if an image in it cannot be decoded within a budget of pixels."""
    for name in columns:
        cell = values.get(name)
        if isinstance(cell, str):
            try:
                decode(from_cell(cell), pixels=pixels)
            except ImageError as error:
                return bad_image(row, name, error)
    return None


def no_files(uri: str, path: str) -> bytes:
    """Stand for a source whose images are not files beside its rows."""
    raise refusal("image_outside", f"names the file {path[:80]!r}, and this source reads no files beside its rows")
