"""Human ratings of short texts from several places, as rows of one label: how people feel about tweets, films, news.

    pip download --no-deps --no-binary :all: vaderSentiment==2.5 -d rows
    python -m recipes.vader_sentiment rows/sentiment rows/vaderSentiment-2.5.tar.gz

writes `tweets.jsonl`, `films.jsonl` and `products.jsonl` to `rows/sentiment`: `{"id", "text", "label"}` with the label
`positive` or `negative` by the mean of about twenty ratings from -4 to 4, where that is at least one from 0; 2,000 rows
of each at most. Which rows they are follows from their texts, so every build gives the same. The ratings are those of
Hutto & Gilbert 2014 (VADER), which the package's archive of sources holds under the MIT licence.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from ftlib.errors import DataError
from recipes.building import build_once

INSIDE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {"tweets": "tweets", "films": "movieReviewSnippets", "products": "amazonReviewSnippets"}
ROWS, DISTANCE = 2_000, 1.0


def build(out: Path, archive: Path, most: int = ROWS) -> str:
    """Write the rows to `out`, `most` of each place at most; return how many there are. Raises DataError for an archive that is not the one."""
    out.mkdir(parents=True, exist_ok=True)
    counts: list[str] = []
    for name, lines in _tables(archive):
        rows = sorted(_rows(lines), key=lambda row: hashlib.sha256(row["text"].encode()).digest())[:most]
        text = "".join(json.dumps({"id": f"{name}-{i}", **row}) + "\n" for i, row in enumerate(rows))
        (out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts.append(f"{len(rows)} of {name}")
    return ", ".join(counts)


def _tables(archive: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of each file of ratings."""
    try:
        with tarfile.open(archive) as outer:
            inside = outer.extractfile(INSIDE)
            assert inside is not None
            packed = inside.read()
        with tarfile.open(fileobj=io.BytesIO(packed)) as inner:
            for name, file in FILES.items():
                lines = inner.extractfile(f"hutto_ICWSM_2014/{file}_GroundTruth.txt")
                assert lines is not None
                yield name, lines.read().decode("utf-8", errors="replace").splitlines()
    except (OSError, KeyError, tarfile.TarError, AssertionError) as error:
        raise DataError(
            f"{archive} is not the archive of vaderSentiment 2.5 ({type(error).__name__}); pip download --no-deps "
            "--no-binary :all: vaderSentiment==2.5"
        ) from error


def _rows(lines: list[str]) -> Iterator[dict[str, str]]:
    for line in lines:
        _, _, rest = line.partition("\t")
        rating, _, text = rest.partition("\t")
        if text.strip() and abs(float(rating)) >= DISTANCE:
            yield {"text": text.strip(), "label": "positive" if float(rating) > 0 else "negative"}


def main(arguments: list[str]) -> int:
    """Build to the folder that is named first, of the archive that is named second."""
    out = Path(arguments[0] if arguments else "rows/sentiment")
    archive = Path(arguments[1] if len(arguments) > 1 else "rows/vaderSentiment-2.5.tar.gz")
    return build_once("vader_sentiment", out, out / f"{[*FILES][-1]}.jsonl", lambda: build(out, archive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
