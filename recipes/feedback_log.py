"""A log of feedback as a service would write it, on synopses of Debian's packages.

    python -m recipes.debian_descriptions rows/debian
    python -m recipes.feedback_log rows/feedback rows/debian/synopses.jsonl

writes `rows/feedback/2026-10.jsonl` and `2026-11.jsonl`. What was asked for is a package's synopsis, and what answered
takes the first words of the description: no model is needed to write the log. An answer that keeps to the policy for
synopses (`keeps_policy`) gets its thumb up, another its thumb down; every second of these, days later and as a line of
its own, gets the package's own synopsis as its correction. Which rows they are follows from the file of synopses.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ftlib.errors import DataError
from recipes.building import build_once

FILES = ("2026-10.jsonl", "2026-11.jsonl")
_BEGUN = datetime(2026, 10, 1, tzinfo=UTC)
_LONGEST = 70
"""Characters of a first sentence that is told as it is."""


def keeps_policy(synopsis: str) -> bool:
    """Say whether a synopsis is short, begins with no article, and ends with no full stop, as Debian's policy asks."""
    article = synopsis.lower().startswith(("a ", "an ", "the "))
    return len(synopsis) <= 80 and not article and not synopsis.endswith(".")


def build(out: Path, synopses: Path) -> str:
    """Write the log below `out`; return how many lines it has. Raises DataError for a file that holds no synopses."""
    try:
        chats = [json.loads(line)["messages"] for line in synopses.read_text(encoding="utf-8").splitlines()]
        asked = [(chat[0]["content"], chat[-1]["content"]) for chat in chats]
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{synopses} holds no synopses ({type(error).__name__}); python -m recipes.debian_descriptions rows/debian"
        ) from error
    out.mkdir(parents=True, exist_ok=True)
    lines = sorted(_lines(asked), key=lambda line: line["time"])
    border = lines[len(lines) // 2]["time"]
    for name, kept in zip(FILES, (lambda time: time < border, lambda time: time >= border), strict=True):
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines if kept(line["time"]))
        (out / name).write_text(text, encoding="utf-8")
    return f"{len(lines)} lines"


def _lines(asked: list[tuple[str, str]]) -> Iterator[dict[str, str | bool]]:
    for number, (prompt, synopsis) in enumerate(asked):
        description = prompt.partition("\n\n")[2]
        sentence = description.partition(". ")[0]
        answer = sentence if len(sentence) <= _LONGEST else " ".join(description.split()[:8])
        request, time = f"r{number:05d}", _BEGUN + timedelta(hours=2 * number)
        good = keeps_policy(answer)
        yield {"request_id": request, "prompt": prompt, "answer": answer, "time": time.isoformat()}
        yield {"request_id": request, "thumb": good, "time": (time + timedelta(minutes=1)).isoformat()}
        if not good or number % 2:
            yield {"request_id": request, "correction": synopsis, "time": (time + timedelta(days=3)).isoformat()}


def main(arguments: list[str]) -> int:
    """Build to the folder that is named first, of the synopses that are named second."""
    out = Path(arguments[0] if arguments else "rows/feedback")
    synopses = Path(arguments[1] if len(arguments) > 1 else "rows/debian/synopses.jsonl")
    return build_once("feedback_log", out, out / FILES[-1], lambda: build(out, synopses))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
