"""Weak labels: the section of the archive that rules guess of packages whose section nobody is asked.

    python -m recipes.debian_sections rows/sections                # once
    python -m recipes.weak_sections rows/sections rows/weak

writes `weak.jsonl`: of the descriptions in `plain.jsonl` those that a rule says something about, with the section that
it guesses. Rules read a package's name or words of its description. `rules.txt` says how often they are right of the
rows in `sections.jsonl`, whose sections are known.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from ftlib.errors import DataError
from recipes.building import build_once

NAMES = {
    "perl": r"^lib.*-perl$",
    "python": r"^python3?-",
    "golang": r"^golang-",
    "ruby": r"^ruby-",
    "javascript": r"^(node|libjs)-",
    "doc": r"-doc(s|-\w+)?$",
    "libdevel": r"^lib.*-dev$",
    "libs": r"^lib.*\d$",
}
"""What a package's name says; the first that matches counts."""
WORDS = {
    "net": r"\b(server|client|network|protocol|HTTP|SMTP|proxy|firewall)\b",
    "utils": r"\b(utility|utilities|tool|command[- ]line)\b",
}
"""What its description says, where its name says nothing."""


def guess(package: str, text: str) -> str | None:
    """Return the section that the rules guess; None where none of them matches."""
    for rules, of in ((NAMES, package), (WORDS, text)):
        for section, pattern in rules.items():
            if re.search(pattern, of):
                return section
    return None


def build(rows: Path, out: Path) -> dict[str, int]:
    """Write the weak rows below `out`, which must not exist; return how many there are, and of how many.

    Raises DataError where `rows` are not what `recipes.debian_sections` wrote, or no rule matches one.
    """
    if out.exists():
        raise DataError(f"{out} exists already; rows are written to a new folder")
    plain, known = [*_read(rows / "plain.jsonl")], [*_read(rows / "sections.jsonl")]
    weak = [{**row, "section": said} for row in plain if (said := guess(row["package"], row["text"]))]
    if not weak:
        raise DataError(f"no rule matches a row of {rows / 'plain.jsonl'}; give rows of debian_sections")
    guesses = [(row["section"], said) for row in known if (said := guess(row["package"], row["text"]))]
    right = sum(section == said for section, said in guesses)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as scratch:
        (work := Path(scratch) / "rows").mkdir()
        lines: Iterable[str] = (json.dumps(row, ensure_ascii=False) + "\n" for row in weak)
        (work / "weak.jsonl").write_text("".join(lines), encoding="utf-8")
        said = f"of {len(known)} rows with sections the rules name {len(guesses)}, and {right} of them rightly\n"
        (work / "rules.txt").write_text(said, encoding="utf-8")
        work.rename(out)
    return {"weak": len(weak), "of": len(plain), "rightly of 100": round(100 * right / max(1, len(guesses)))}


def _read(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        raise DataError(f"{path} is not there; make it: python -m recipes.debian_sections {path.parent}")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def main(arguments: list[str]) -> int:
    """Build from the first argument's rows to the second, rows/sections and rows/weak where there are none."""
    rows, out = (Path(one) for one in [*arguments, *["rows/sections", "rows/weak"][len(arguments) :]])

    def write() -> str:
        return ", ".join(f"{name} {count}" for name, count in build(rows, out).items())

    return build_once("weak_sections", out, out / "rules.txt", write)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
