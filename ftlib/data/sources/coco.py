"""Rows from annotated images as COCO writes them: lists of images, annotations and categories, joined by ids."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import msgspec
from typing_extensions import override

from ftlib.data.images.columns import with_images
from ftlib.data.listed import FileVersion, ListedFile
from ftlib.data.row_reasons import BadReason
from ftlib.data.rows import BadRow, Row, Value
from ftlib.data.sources.images_beside import ImagesBeside, list_images
from ftlib.data.sources.stored_files import StoredFiles, read_whole
from ftlib.errors import DataError, first_line

_SHAPE = "needed are an object with the lists images, annotations and categories"


class Coco(StoredFiles):
    """One row for each entry of `images`: `image`, `boxes` as format `boxed_image` reads them, and `path`.

    Coco("annotations.json", images_in="photos")

    An image that no annotation names has no box. Masks, key points and captions are not read. A relative path counts
    from the current folder.
    """

    kind: Literal["coco"] = "coco"
    images_in: str | None = None
    """The folder that `file_name` counts from, here or in the same bucket; by default that of the file."""

    drop_columns: ClassVar[tuple[str, ...]] = ()
    """It has no column that one could do without."""

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Return that of JSON."""
        return (".json",)

    @property
    @override
    def image_columns(self) -> tuple[str, ...]:
        return ("image",)

    @override
    def column_hint(self, column: str) -> str:
        return "; kind coco makes the columns image, boxes and path"

    @override
    def list(self) -> tuple[ListedFile, ...]:
        rows = super().list()
        images = list_images(self.place(), self.images_in, rows)
        return (*rows, *(ListedFile(uri=file.uri, version=file.version, bytes=file.bytes) for file in images))

    def read(self, files: tuple[FileVersion, ...], row_bytes: int) -> Iterator[Row | BadRow]:
        """Read the pinned files in the order of their digests. Ids join within one file, which memory holds whole.

        Raises DataError for a file that is no such JSON, or whose categories are not told apart.
        """
        rows = sorted((file for file in files if self.is_read(file.uri)), key=lambda file: file.sha256)
        images = ImagesBeside(self.place(), self.images_in, files, rows, row_bytes)
        for file in rows:
            for row in _Joined(file.uri, decoded(read_whole(self.bucket(), file), file.uri)).rows(row_bytes):
                yield with_images(row, ("image",), images.read)


class _Image(msgspec.Struct):
    """An entry of `images`; what is not named here is not kept."""

    id: Any = None
    file_name: Any = None


class _Annotation(msgspec.Struct):
    id: Any = None
    image_id: Any = None
    category_id: Any = None
    bbox: Any = None
    iscrowd: Any = 0


class _Category(msgspec.Struct):
    id: Any
    name: str


class Annotated(msgspec.Struct):
    """What is read of a file."""

    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


def decoded(data: bytes, uri: str) -> Annotated:
    """Return what a file says. Raises DataError for what is no COCO JSON."""
    try:
        return msgspec.json.decode(data, type=Annotated)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{uri} is no COCO JSON: {first_line(error)}; {_SHAPE}") from None


class _Joined:
    """A file's annotations by image."""

    def __init__(self, uri: str, told: Annotated) -> None:
        self._uri, self._images = uri, told.images
        self._names = _names(told.categories, uri)
        self._of_image: Mapping[Any, list[tuple[int, _Annotation]]] = defaultdict(list)
        for number, one in enumerate(told.annotations, 1):
            self._of_image[key(one.image_id)].append((number, one))
        self._ids = Counter(key(one.id) for one in told.images)
        self._annotation_ids = Counter(key(one.id) for one in told.annotations if one.id is not None)

    def rows(self, row_bytes: int) -> Iterator[Row | BadRow]:
        """Yield every image, then each annotation that belongs to none."""
        for number, one in enumerate(self._images, 1):
            yield self._row(number, one, row_bytes)
        for key, found in self._of_image.items():
            if key not in self._ids:
                for number, one in found:
                    detail = f"annotations[{number - 1}] is of image {_shown(one.image_id)}, which images do not have"
                    yield BadRow(self._uri, number, len(msgspec.json.encode(one)), "unknown_image", detail)

    def _row(self, number: int, one: _Image, row_bytes: int) -> Row | BadRow:
        """Make a row of an image and its annotations, or say why it is none."""
        of_image = self._of_image.get(key(one.id), [])
        size = len(msgspec.json.encode([one, [told for _, told in of_image]]))

        def bad(reason: BadReason, detail: str) -> BadRow:
            return BadRow(self._uri, number, size, reason, detail)

        if not _is_id(one.id):
            return bad("odd_id", f"images[{number - 1}] has the id {_shown(one.id)}, needed is a whole number")
        if (times := self._ids[key(one.id)]) > 1:
            return bad("odd_id", f"{times} images have the id {_shown(one.id)}; none can be told whose boxes are whose")
        if size > row_bytes:
            return bad("too_large", f"{size} bytes with its boxes, allowed {row_bytes}; raise limits.row_bytes")
        boxes: list[Value] = []
        for place, told in of_image:
            if wrong := self._wrong(place - 1, told):
                return bad(*wrong)
            crowd: dict[str, Value] = {"crowd": True} if told.iscrowd else {}
            boxes.append({"label": self._names[key(told.category_id)], "box": told.bbox, **crowd})
        return Row(self._uri, number, size, {"image": one.file_name, "boxes": boxes, "path": one.file_name})

    def _wrong(self, place: int, told: _Annotation) -> tuple[BadReason, str] | None:
        """Return why an image with such an annotation is no row: without it, it would teach that nothing is there."""
        if told.id is not None and (times := self._annotation_ids[key(told.id)]) > 1:
            return "odd_id", f"annotations[{place}] has the id {_shown(told.id)}, as {times - 1} more have"
        if key(told.category_id) not in self._names:
            shown = f"annotations[{place}] is of category {_shown(told.category_id)}"
            return "unknown_category", f"{shown}, which categories do not have"
        if told.iscrowd not in (0, 1, None):
            shown = f"annotations[{place}] has iscrowd {_shown(told.iscrowd)}"
            return "odd_annotation", f"{shown}, allowed are 0 and 1"
        if not _is_box(told.bbox):
            shown = f"annotations[{place}] has the bbox {_shown(told.bbox)}"
            return "odd_annotation", f"{shown}, needed are four numbers: left, top, width and height"
        return None


def _names(categories: Sequence[_Category], uri: str) -> Mapping[Any, str]:
    """Return the names of categories by id. Raises DataError where two have one id or one name."""
    for what, found in (("id", [key(one.id) for one in categories]), ("name", [one.name for one in categories])):
        if again := next((value for value, times in Counter(found).items() if times > 1), None):
            shown = again[1] if isinstance(again, tuple) else again
            raise DataError(f"{uri}: two categories have the {what} {_shown(shown)}; give each its own")
    return {key(one.id): one.name for one in categories}


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _is_box(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    numbers = cast("list[Any]", value)
    return len(numbers) == 4 and all(
        isinstance(one, (int, float)) and not isinstance(one, bool) and abs(one) <= sys.float_info.max
        for one in numbers
    )


def key(value: Any) -> tuple[str, Any]:
    """Return what tells ids apart: 1 is neither "1" nor true."""
    return type(value).__name__, value if _is_id(value) else str(value)


def _shown(value: Any) -> str:
    return repr(value)[:40]
