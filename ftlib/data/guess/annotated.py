"""From a COCO file to what a dataset of a recipe says."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from ftlib.data.formats import BoxedImage
from ftlib.data.guess.record import Guess, written
from ftlib.data.guess.sample import LEAST
from ftlib.data.guess.splits import propose_split
from ftlib.data.rows import Example
from ftlib.data.sources.coco import decoded, key
from ftlib.errors import DataError
from ftlib.wording import counted, some


def guess_annotated(file: Path, project: Path) -> Guess:
    """Guess what a COCO file holds, and where its images lie.

    Raises DataError for JSON that is none, too few images, or images that are not found beside it.
    """
    told = decoded(file.read_bytes(), str(file))
    names = [one.file_name for one in told.images if isinstance(one.file_name, str)]
    if len(names) < LEAST:
        raise DataError(f"{file}: {counted(len(names), 'image')}, at least {LEAST} are needed; give more images")
    folder = _folder(file, names)
    labels = {key(one.id): one.name for one in told.categories}
    boxes = Counter(labels[key(one.category_id)] for one in told.annotations if key(one.category_id) in labels)
    bare = len({*(key(one.id) for one in told.images)} - {key(one.image_id) for one in told.annotations})
    examples = [Example(name, None) for name in names]
    split = propose_split((), [{} for _ in examples], examples, frozenset(), labels=False)
    named = f"label: the category of a box, {len(boxes)} of them: {some([name for name, _ in boxes.most_common()], 6)}"
    beside = {} if folder == file.parent else {"images_in": f"{written(folder, project)}/"}
    return Guess(
        kind=BoxedImage.yields,
        source={"kind": "coco", "path": written(file, project), **beside},
        format={"kind": "boxed_image"},
        split=split.split,
        looked=f"{counted(len(names), 'image')} with {sum(boxes.values()):,} boxes",
        why_format=(named, f"boxes: {counted(bare, 'image')} without any, which teach that nothing is there"),
        why_split=(split.reason, *split.others),
    )


def _folders(around: Path) -> list[Path]:
    """Return the folders in one, in order; none where it cannot be listed."""
    with suppress(OSError), os.scandir(around) as entries:
        return sorted(Path(one.path) for one in entries if one.is_dir())
    return []


def _folder(file: Path, names: list[str]) -> Path:
    """Return the folder, beside or around the file, that the images' names count from."""
    if (file.parent / names[0]).is_file():
        return file.parent
    for around in (file.parent, file.absolute().parent.parent):
        for folder in _folders(around):
            if os.path.isfile(folder / names[0]):  # Path.is_file raises where one may not enter
                return folder
    raise DataError(
        f"{file}: its first image, {names[0]}, lies neither beside it nor in a folder beside it; move the images there"
    )
