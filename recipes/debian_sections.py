"""Descriptions of Debian's packages in three ways: plain text of a domain, texts with a label, pairs of one meaning.

    python -m recipes.debian_sections rows/sections                                      # fetches 30 MB by apt-get
    python -m recipes.debian_sections rows/sections Translation-en --packages Packages   # of files that are there

writes `plain.jsonl`, 2,000 descriptions; `sections.jsonl`, 60 descriptions for each of ten of the archive's sections,
with the section; and `pairs.jsonl`, 2,000 synopses, each with the first paragraph of its package's description. No
package is in two of them. `sources.txt` says which files they come from.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from recipes.building import build_once
from recipes.debian_descriptions import Description, by_name, descriptions, fetched, text_of

PLAIN, PAIRS = 2000, 2000
SECTIONS, OF_SECTION = 10, 60
SHORTEST, LONGEST = 120, 900
"""Characters of a description."""


def build(out: Path, files: Sequence[Path] = (), packages: Sequence[Path] = ()) -> dict[str, int]:
    """Write the rows below `out`, which must not exist, and return how many of each sort there are.

    `files` are Debian's Translation-en and `packages` its Packages, packed or not; without any they are downloaded by
    apt-get. Raises DataError if apt-get is not there or refuses, or nothing is found.
    """
    out = out.absolute()
    if out.exists():
        raise DataError(f"{out} exists already; rows are written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        if not files:
            files = fetched(Path(scratch))
            packages = sorted(Path(scratch, "lists").glob("*_main_*Packages*"))
        found = {one.package: one for file in files for one in descriptions(text_of(file))}
        section_of = {name: section for file in packages for name, section in _sections(text_of(file))}
        rows = _rows(by_name([*found.values()]), section_of)
        if not all(rows.values()):
            names = ", ".join(file.name for file in (*files, *packages)) or "no files"
            raise DataError(f"no descriptions with sections in {names}; give a Translation-en and its Packages")
        work = Path(scratch) / "rows"
        work.mkdir()
        for name, those in rows.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in those]
            (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        said = [f"{file.name}, sha256 {file_digest(file)}\n" for file in (*files, *packages)]
        (work / "sources.txt").write_text("".join(said), encoding="utf-8")
        work.rename(out)
    return {name: len(those) for name, those in rows.items()}


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield every package of a Packages file with its section."""
    package = ""
    for line in text.split("\n"):
        if line.startswith("Package: "):
            package = line.removeprefix("Package: ")
        elif line.startswith("Section: "):
            yield package, line.removeprefix("Section: ").rpartition("/")[2]


def _rows(found: Sequence[Description], section_of: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """Return the rows of every file; the largest sections are those that are told apart."""
    fitting, seen = list[Description](), set[str]()
    for one in found:
        text = " ".join(one.paragraphs)
        if one.package in section_of and SHORTEST <= len(text) <= LONGEST and not {text, one.paragraphs[0]} & seen:
            seen |= {text, one.paragraphs[0]}
            fitting.append(one)
    largest = [name for name, _ in Counter(section_of[one.package] for one in fitting).most_common(SECTIONS)]
    of_section: defaultdict[str, list[Description]] = defaultdict(list)
    for one in fitting:
        of_section[section_of[one.package]].append(one)
    labeled = [one for name in largest for one in of_section[name][:OF_SECTION]]
    taken = {one.package for one in labeled}
    rest = [one for one in fitting if one.package not in taken]
    return {
        "sections": [
            {"package": one.package, "text": " ".join(one.paragraphs), "section": section_of[one.package]}
            for one in labeled
        ],
        "plain": [{"package": one.package, "text": " ".join(one.paragraphs)} for one in rest[:PLAIN]],
        "pairs": [
            {"package": one.package, "synopsis": one.synopsis, "description": one.paragraphs[0]}
            for one in rest[PLAIN : PLAIN + PAIRS]
        ],
    }


def main(arguments: list[str]) -> int:
    """Build to the first argument, rows/sections where there is none, from the files that the others name."""
    border = arguments.index("--packages") if "--packages" in arguments else len(arguments)
    out = Path(arguments[0] if border else "rows/sections")
    files, packages = ([Path(name) for name in some] for some in (arguments[1:border], arguments[border + 1 :]))

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(out, files, packages).items())

    return build_once("debian_sections", out, out / "sources.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
