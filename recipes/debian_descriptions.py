"""Descriptions of Debian's packages, as chats: a long one to be told in a line, and questions answered at length.

    python -m recipes.debian_descriptions rows/debian                  # fetches 30 MB by apt-get; no root needed
    python -m recipes.debian_descriptions rows/debian Translation-en   # of a file that is there

writes `rows/debian/synopses.jsonl`, 300 chats that ask for a package's synopsis, and `rows/debian/questions.jsonl`, 100
that ask what another package is and get its first paragraph: what instruction tuning on the former may cost. Which
packages they are follows from their names, so every build of the same lists gives the same rows. The texts are their
packages' own and as free as these (Debian main). `sources.txt` says which files they come from.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.errors import DataError
from ftlib.fingerprint import file_digest
from recipes.building import build_once

SYNOPSES, QUESTIONS = 300, 100
"""Chats of each sort."""
SHORTEST, LONGEST = 200, 900
"""Characters of a description that is told in a line."""
_HELPER = "/usr/lib/apt/apt-helper"


@dataclass(frozen=True)
class Description:
    """What a package says of itself."""

    package: str
    synopsis: str
    paragraphs: tuple[str, ...]


def build(out: Path, files: Sequence[Path] = ()) -> dict[str, int]:
    """Write the chats below `out`, which must not exist, and return how many of each sort there are.

    `files` are Debian's Translation-en, packed or not; without any they are downloaded by apt-get. Raises DataError if
    apt-get is not there or refuses, or too few descriptions are found.
    """
    out = out.absolute()
    if out.exists():
        raise DataError(f"{out} exists already; rows are written to a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        files = files or fetched(Path(scratch))
        found = {one.package: one for file in files for one in descriptions(text_of(file))}
        chats = {"synopses": [*_synopses(found.values())][:SYNOPSES]}
        taken = {chat["package"] for chat in chats["synopses"]}
        rest = [one for one in found.values() if one.package not in taken]
        chats["questions"] = [*_questions(rest)][:QUESTIONS]
        if not all(chats.values()):
            raise DataError(f"no descriptions in {', '.join(file.name for file in files)}; give a Translation-en")
        work = Path(scratch) / "rows"
        work.mkdir()
        for name, rows in chats.items():
            lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
            (work / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        said = [f"{file.name}, sha256 {file_digest(file)}\n" for file in files]
        (work / "sources.txt").write_text("".join(said), encoding="utf-8")
        work.rename(out)
    return {name: len(rows) for name, rows in chats.items()}


def fetched(scratch: Path) -> list[Path]:
    """Download the lists into `scratch/lists`, and return every Translation-en there."""
    lists = scratch / "lists"
    (lists / "partial").mkdir(parents=True)
    _call(["apt-get", "-o", "Acquire::Languages=en", "-o", f"Dir::State::Lists={lists}", "update"])
    found = sorted(lists.glob("*_main_i18n_Translation-en*"))
    if not found:
        raise DataError("apt-get update brought no Translation-en of main; give the file as an argument")
    return found


def text_of(file: Path) -> str:
    """Return the text of one of apt's files, packed or not."""
    if file.suffix not in (".lz4", ".xz", ".bz2", ".gz"):
        return file.read_text(encoding="utf-8")
    return _call([_HELPER, "cat-file", str(file)])


def descriptions(text: str) -> Iterator[Description]:
    """Yield every entry of a Translation-en: a package, a synopsis, and paragraphs told apart by a line with a dot."""
    for entry in text.split("\n\n"):
        head, _, body = entry.partition("\nDescription-en: ")
        package = head.partition("Package: ")[2].partition("\n")[0]
        synopsis, *lines = body.split("\n")
        paragraphs: list[list[str]] = [[]]
        for line in lines:
            if line.strip() == ".":
                paragraphs.append([])
            elif not line.startswith("  "):  # lists and code are indented once more
                paragraphs[-1].append(line.strip())
        said = tuple(joined for one in paragraphs if (joined := " ".join(one).strip()))
        if package and synopsis.strip() and said:
            yield Description(package, synopsis.strip(), said)


def by_name(found: Sequence[Description]) -> list[Description]:
    """Return them in an order that says nothing: alphabetically, one family of packages would follow another."""
    return sorted(found, key=lambda one: hashlib.sha256(one.package.encode()).hexdigest())


def _synopses(found: Iterator[Description] | Sequence[Description]) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for one in by_name([*found]):
        text = "\n\n".join(one.paragraphs)
        if SHORTEST <= len(text) <= LONGEST and not {text, one.synopsis} & seen:
            seen |= {text, one.synopsis}
            asked = f"Write the synopsis of this Debian package, one short line.\n\n{text}"
            yield _chat(one.package, asked, one.synopsis)


def _questions(found: Sequence[Description]) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for one in by_name(found):
        if 100 <= len(one.paragraphs[0]) <= LONGEST and one.paragraphs[0] not in seen:
            seen.add(one.paragraphs[0])
            yield _chat(one.package, f"What is the Debian package {one.package}?", one.paragraphs[0])


def _chat(package: str, asked: str, answer: str) -> dict[str, object]:
    messages = [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    return {"package": package, "messages": messages}


def _call(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{command[0]} is not on this machine, which is no Debian; give a Translation-en, unpacked"
        ) from error
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        raise DataError(f"{Path(command[0]).name} failed: {said}; give a Translation-en")
    return done.stdout


def main(arguments: list[str]) -> int:
    """Build to the first argument, rows/debian where there is none, from the files that the others name."""
    out, files = Path(arguments[0] if arguments else "rows/debian"), [Path(name) for name in arguments[1:]]

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(out, files).items())

    return build_once("debian_descriptions", out, out / "sources.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
