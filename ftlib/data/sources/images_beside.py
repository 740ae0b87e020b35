"""Image files that rows name by a path: listed and pinned with the rows, since they are part of what the rows say."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from ftlib.config import user_path
from ftlib.data.images.columns import IMAGE_SUFFIXES, OTHER_SUFFIXES
from ftlib.data.images.decoding import refusal
from ftlib.data.listed import FileVersion, ListedFile
from ftlib.data.sources.listing import FileStatus, list_below, list_folder
from ftlib.data.sources.stored_files import read_whole
from ftlib.errors import DataError, RecipeError
from ftlib.storage import Place, open_objects


def list_images(place: Place, images_in: str | None, rows: Sequence[ListedFile]) -> list[FileStatus]:
    """List the images under the folder that paths count from. Links that lead out of it are left out.

    Raises RecipeError for a folder that is neither here nor in the rows' bucket, DataError for one that is not there.
    """
    folder = folder_of_images(place, images_in, (file.uri for file in rows))
    if place.remote:
        bucket = open_objects(place)
        files = list_below(bucket, folder.removeprefix(bucket.uri("")).rstrip("/"))
    else:
        if not os.path.isdir(folder):
            raise DataError(f"{folder}: no such folder (looked in {Path.cwd()}); correct source.images_in")
        real = os.path.realpath(folder)
        files = [file for file in list_folder(Path(folder)) if _is_below(file.real, real)]
    return [file for file in files if is_image(file.uri)]


def is_image(uri: str) -> bool:
    """Say whether a file's name is that of an image, one that is refused too."""
    return uri.lower().endswith((*IMAGE_SUFFIXES, *OTHER_SUFFIXES))


def folder_of_images(place: Place, images_in: str | None, rows: Iterable[str]) -> str:
    """Return the folder that holds all images that rows may name: `images_in`, or the one above all row files."""
    if images_in is None:
        return os.path.commonpath([uri.rpartition("/")[0] for uri in rows]).replace(
            ":/", "://", 1 if place.remote else 0
        )
    named = place.beside(images_in)
    if named.root != place.root:
        raise RecipeError(
            f"source.images_in: {images_in!r}, allowed is a folder beside the rows, here or in their bucket"
        )
    return named.uri.rstrip("/") if place.remote else str(user_path(images_in).absolute())


class ImagesBeside:
    """Reads pinned images by the paths that rows say."""

    def __init__(
        self,
        place: Place,
        images_in: str | None,
        files: Iterable[FileVersion],
        rows: Sequence[FileVersion],
        row_bytes: int,
    ) -> None:
        """Take the source's place, all of its pinned files, and those of them that hold rows."""
        self._images: Mapping[str, FileVersion] = {file.uri: file for file in files if is_image(file.uri)}
        self._folder = folder_of_images(place, images_in, (file.uri for file in rows))
        """What no path may leave."""
        self._bucket = open_objects(place) if place.remote else None
        self._row_bytes, self._fixed = row_bytes, images_in is not None

    def read(self, uri: str, path: str) -> bytes:
        """Return the bytes of the image that a row of the file `uri` names. Raises ImageError if it may not, or cannot.

        Raises DataError if they are others than when the run started.
        """
        claim = f"names the file {path[:200]!r}"
        if path.startswith(("/", "~")) or "://" in path or "\0" in path or ".." in PurePosixPath(path).parts:
            raise refusal("image_outside", f"{claim}, allowed are paths within {self._folder}")
        named = f"{self._folder if self._fixed else uri.rpartition('/')[0]}/{PurePosixPath(path)}"
        file = self._images.get(named) or self._linked(named, claim)
        if file is None:
            raise refusal(
                "missing_image_file",
                f"{claim}, which was no image in {self._folder} when the run started; paths count from the row's file, "
                f"or from source.images_in, and end with {', '.join(IMAGE_SUFFIXES)}",
            )
        if file.bytes > self._row_bytes:
            raise refusal(
                "too_large",
                f"{claim} of {file.bytes} bytes, allowed {self._row_bytes} for a row; raise limits.row_bytes, or store "
                "the image smaller",
            )
        return read_whole(self._bucket, file)

    def _linked(self, named: str, claim: str) -> FileVersion | None:
        """Return the image that a path leads to by links. Raises ImageError for one out of the folder."""
        if self._bucket is not None or not os.path.exists(named):
            return None
        real = os.path.realpath(named)
        if not _is_below(f"{real}/", os.path.realpath(self._folder)):
            raise refusal("image_outside", f"{claim}, a link that leads out of {self._folder}")
        return self._by_real.get(real)

    @functools.cached_property
    def _by_real(self) -> Mapping[str, FileVersion]:
        return {os.path.realpath(uri): file for uri, file in self._images.items()}


def _is_below(path: str, folder: str) -> bool:
    return path.startswith(folder.rstrip("/") + "/")
