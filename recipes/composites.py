"""Icons pasted on photos, with exact boxes: one theme's icons to train on, two other themes' to test.

    python -m recipes.composites rows/composites                    # fetches 56 MB by apt-get; no root needed
    python -m recipes.composites rows/composites downloads/*.deb    # of files that are there

writes `rows/composites/<theme>.jsonl` and its images: squares of 128 pixels, each a piece of one of scikit-learn's two
photos with none to four icons of five kinds, and `boxes`, around what is seen of each. Training images are of the left
parts of the photos, `home` and the other themes' of the right parts. The same seed draws the same images.
`sources.txt` says which packages, and under which licences.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from recipes.building import build_once
from recipes.icons import SHIFTED, TRAINED, Theme, find_package, unpacked_icons

SIZE = 128
"""Pixels of an image's sides."""
COUNTS = {"train": 2_000, "home": 400, "gnome": 400, "mate": 400}
"""Images of each file."""
KINDS: Mapping[str, tuple[str, ...]] = {
    "folder": ("places/folder", "status/folder-open"),
    "face": ("emotes/face-",),
    "weather": ("status/weather-",),
    "document": ("mimetypes/x-office-", "mimetypes/text-"),
    "battery": ("status/battery-", "devices/battery"),
}
"""How the names of a label's icons begin."""
SEAM = 0.6
"""Where the photos are parted, as a share of their width."""
_TRIES = 20
_VISIBLE = 32
"""Of 255: from this opacity on a pixel of an icon counts as seen."""


def build(out: Path, packages: Sequence[Path] = (), counts: Mapping[str, int] = COUNTS) -> dict[str, int]:
    """Write the images below `out`, which must not exist, and return how many boxes each file has.

    Raises DataError as `recipes.icons.build` does.
    """
    out = out.absolute()  # dpkg runs in another folder
    if out.exists():
        raise DataError(f"{out} exists already; images are written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work, lines, boxes = Path(scratch) / "composites", list[str](), dict[str, int]()
        work.mkdir()
        for theme in (TRAINED, *(one for one in SHIFTED if one.name in counts)):
            package = find_package(theme, packages, Path(scratch))
            icons = _icons(theme, package, Path(scratch))
            for name in ("train", "home") if theme is TRAINED else (theme.name,):
                boxes[name] = _write(work, name, counts[name], icons)
            lines.append(f"{theme.name}: {package.name}, sha256 {file_digest(package)}, {theme.licence}\n")
        lines.append("photos: scikit-learn's load_sample_images, CC BY 2.0 and 3.0\n")
        (work / "sources.txt").write_text("".join(lines), encoding="utf-8")
        work.rename(out)
    return boxes


def _icons(theme: Theme, package: Path, scratch: Path) -> dict[str, list[Any]]:
    """Return each label's icons."""
    from PIL import Image

    files = dict(unpacked_icons(replace(theme, name=f"{theme.name}-all"), package, scratch))
    found: dict[str, list[Any]] = {}
    for label, beginnings in KINDS.items():
        chosen = [path for name, path in sorted(files.items()) if name.startswith(beginnings)]
        if not chosen:
            raise DataError(f"{package.name} has no icons that begin with {beginnings[0]}; give another one")
        found[label] = [Image.open(path).convert("RGBA") for path in chosen]
    return found


def _write(work: Path, name: str, count: int, icons: Mapping[str, Sequence[Any]]) -> int:
    from sklearn.datasets import load_sample_images

    photos, boxes = load_sample_images().images, 0
    (work / name).mkdir()
    with (work / f"{name}.jsonl").open("w", encoding="utf-8") as rows:
        for i in range(count):
            draw = np.random.default_rng([*name.encode(), i])
            image = ground(photos[int(draw.integers(len(photos)))], draw, left=name == "train")
            told = _paste(image, icons, draw)
            image.save(work / name / f"{i:05}.png")
            rows.write(json.dumps({"image": f"{name}/{i:05}.png", "boxes": told}) + "\n")
            boxes += len(told)
    return boxes


def ground(photo: np.ndarray, draw: np.random.Generator, *, left: bool) -> Any:
    """Return a square piece of the left or the right part of a photo, mirrored or not, of SIZE pixels."""
    from PIL import Image, ImageOps

    seam = round(photo.shape[1] * SEAM)
    part = photo[:, :seam] if left else photo[:, seam:]
    side = int(draw.integers(SIZE, min(part.shape[:2]) + 1))
    top, start = (int(draw.integers(0, whole - side + 1)) for whole in part.shape[:2])
    piece = Image.fromarray(part[top : top + side, start : start + side]).resize((SIZE, SIZE))
    return ImageOps.mirror(piece) if draw.random() < 0.5 else piece


def _paste(image: Any, icons: Mapping[str, Sequence[Any]], draw: np.random.Generator) -> list[dict[str, Any]]:
    """Paste up to four icons that do not touch, and return their labels and boxes: left, top, width and height."""
    told: list[dict[str, Any]] = []
    labels = [*icons]
    for _ in range(int(draw.integers(0, 5))):
        label = labels[int(draw.integers(len(labels)))]
        icon = icons[label][int(draw.integers(len(icons[label])))]
        side = int(draw.integers(24, 61))
        icon = icon.resize((side, side))
        seen = np.asarray(icon)[:, :, 3] >= _VISIBLE
        lines, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
        for _ in range(_TRIES):
            left, top = (int(draw.integers(0, SIZE - side + 1)) for _ in range(2))
            box = [left + columns[0], top + lines[0], columns[-1] - columns[0] + 1, lines[-1] - lines[0] + 1]
            if not any(touch(box, one["box"]) for one in told):
                image.paste(icon, (left, top), icon)
                told.append({"label": label, "box": [int(value) for value in box]})
                break
    return told


def touch(one: Sequence[int], other: Sequence[int]) -> bool:
    """Say whether two boxes share a pixel."""
    return all(one[i] < other[i] + other[i + 2] and other[i] < one[i] + one[i + 2] for i in range(2))


def main(arguments: list[str]) -> int:
    """Build to the first argument, rows/composites where there is none, from the packages that the others name."""
    out, packages = Path(arguments[0] if arguments else "rows/composites"), [Path(name) for name in arguments[1:]]

    def write() -> str:
        return ", ".join(f"{name} {count} boxes" for name, count in build(out, packages).items())

    return build_once("composites", out, out / "sources.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
