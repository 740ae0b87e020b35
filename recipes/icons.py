"""Icons of four Debian themes, as folders of labelled images: one theme to train on, three of another style to test.

    python -m recipes.icons rows/icons                     # fetches 57 MB by apt-get; no root needed
    python -m recipes.icons rows/icons downloads/*.deb     # of files that are there

writes `rows/icons/<theme>/<context>/<name>.png`. The label is freedesktop's context (actions, apps, devices, mimetypes,
places, status): what an icon is for, which says less than what it shows. Icons are 48 pixels wide, Tango's 32.
Contexts that have fewer than 40 icons in the training theme are left out, and so are links, which are other names for
the same picture. The other themes keep the icons that the training theme has by that name in that context, so that
only the style differs. `sources.txt` says which packages, and under which licences.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from recipes.building import build_once

LEAST = 40
"""Icons of a context in the training theme."""


@dataclass(frozen=True)
class Theme:
    """One theme, and where its package has the icons."""

    name: str
    folder: str
    """Holds a folder for each context."""
    licence: str

    @property
    def package(self) -> str:
        """Return the Debian package."""
        return f"{self.name}-icon-theme"


TRAINED = Theme("oxygen", "oxygen/base/48x48", "LGPL-3+")
SHIFTED = (
    Theme("gnome", "gnome/48x48", "GPL-2+"),
    Theme("mate", "mate/48x48", "GPL-2+ and others"),
    Theme("tango", "Tango/32x32", "public domain"),
)


def build(out: Path, packages: Sequence[Path] = ()) -> dict[str, int]:
    """Write the folders below `out`, which must not exist, and return how many icons each theme has.

    `packages` are the themes' .deb files; what is missing is downloaded by apt-get. Raises DataError if apt-get or
    dpkg is not there or refuses, or a package is not laid out as is known here.
    """
    out = out.absolute()  # dpkg runs in another folder
    if out.exists():
        raise DataError(f"{out} exists already; icons are written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        work, lines = Path(scratch) / "icons", list[str]()
        names: set[str] = set()
        counts: dict[str, int] = {}
        for theme in (TRAINED, *SHIFTED):
            package = find_package(theme, packages, Path(scratch))
            icons = dict(unpacked_icons(theme, package, Path(scratch)))
            if theme is TRAINED:
                contexts = [name.partition("/")[0] for name in icons]
                names = {name for name in icons if contexts.count(name.partition("/")[0]) >= LEAST}
            chosen = sorted(names & icons.keys())
            if not chosen:
                raise DataError(f"{package.name} has no icons below {theme.folder} that belong here; give another one")
            for name in chosen:
                (work / theme.name / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(icons[name], work / theme.name / name)
            counts[theme.name] = len(chosen)
            lines.append(f"{theme.name}: {package.name}, sha256 {file_digest(package)}, {theme.licence}\n")
        (work / "sources.txt").write_text("".join(lines), encoding="utf-8")
        work.rename(out)
    return counts


def find_package(theme: Theme, packages: Sequence[Path], scratch: Path) -> Path:
    """Return a theme's .deb: the one that is given, or what apt-get downloads. Raises DataError."""
    given = next((path for path in packages if path.name.startswith(f"{theme.package}_")), None)
    if given is None:
        _call(["apt-get", "download", theme.package], scratch)
        given = next(scratch.glob(f"{theme.package}_*.deb"), None)
    if given is None:
        raise DataError(f"apt-get download {theme.package} left no file; give its .deb as an argument")
    return given


def unpacked_icons(theme: Theme, package: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    """Yield `context/name.png` and the file of every icon that is no link."""
    unpacked = scratch / theme.name
    _call(["dpkg", "-x", str(package.absolute()), str(unpacked)], scratch)
    root = unpacked / "usr/share/icons" / theme.folder
    for path in sorted(root.glob("*/*.png")):
        if not path.is_symlink():
            yield path.relative_to(root).as_posix(), path


def _call(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{command[0]} is not on this machine, which is no Debian; give the themes' .deb files"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DataError(f"{' '.join(command[:2])} failed for {command[2]}: {said}; give the themes' .deb files")


def main(arguments: list[str]) -> int:
    """Build to the first argument, rows/icons where there is none, from the packages that the others name."""
    out, packages = Path(arguments[0] if arguments else "rows/icons"), [Path(name) for name in arguments[1:]]

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(out, packages).items())

    return build_once("icons", out, out / "sources.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
