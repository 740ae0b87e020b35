"""Human ratings of short texts from several places, as rows of one label, and as pairs: what people feel more of.

    pip download --no-deps --no-binary :all: vaderSentiment==2.5 -d rows
    python -m recipes.vader_sentiment rows/sentiment rows/vaderSentiment-2.5.tar.gz

writes `tweets.jsonl`, `films.jsonl` and `products.jsonl` to `rows/sentiment`: `{"id", "text", "label"}` with the label
`positive` or `negative` by the mean of about twenty ratings from -4 to 4, where that is at least one from 0; 2,000 rows
of each at most. Which rows they are follows from their texts, so every build gives the same. Beside each lie its pairs,
`tweets-pairs.jsonl` and so on: `{"id", "chosen", "rejected", "margin", "gap", "agreement"}`, two texts of one place of
which the first was rated higher, by `margin` (`gap` says it in words); no text is in two pairs. `agreement` is the
share of two raters, one of each text, who put them in this order, where they did not rate both alike: what a reward
model can reach. The ratings are those of Hutto & Gilbert 2014 (VADER), which the package's archive of sources holds
under the MIT licence.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from ftlib.errors import DataError
from recipes.building import build_once

INSIDE = "vaderSentiment-2.5/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {"tweets": "tweets", "films": "movieReviewSnippets", "products": "amazonReviewSnippets"}
ROWS, DISTANCE = 2_000, 1.0
LEAST_MARGIN = 0.25
"""Of a pair's mean ratings, from -4 to 4; closer ones differ by the raters' chance."""
GAPS = {1.0: "below 1", 2.0: "1 to 2", 4.0: "2 to 4", 8.5: "above 4"}


class Rated(NamedTuple):
    """One text with its ratings."""

    text: str
    mean: float
    ratings: Counter[int]


def build(out: Path, archive: Path, most: int = ROWS) -> str:
    """Write the rows to `out`, `most` of each place at most; return how many there are.

    Raises DataError for an archive that is not the one.
    """
    out.mkdir(parents=True, exist_ok=True)
    counts: list[str] = []
    for name, (lines, ratings) in _tables(archive).items():
        rated = sorted(_rated(lines, ratings), key=lambda one: hashlib.sha256(one.text.encode()).digest())
        rows = _write(out / f"{name}.jsonl", name, [*_rows(rated)][:most])
        pairs = _write(out / f"{name}-pairs.jsonl", f"{name}-pairs", [*_pairs(rated)][:most])
        counts.append(f"{rows} rows and {pairs} pairs of {name}")
    return ", ".join(counts)


def _write(path: Path, name: str, rows: Sequence[Mapping[str, object]]) -> int:
    path.write_text("".join(json.dumps({"id": f"{name}-{i}", **row}) + "\n" for i, row in enumerate(rows)), "utf-8")
    return len(rows)


def _tables(archive: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Return the lines of each place's file of texts with their means, and of its file of single ratings."""
    try:
        with tarfile.open(archive) as outer:
            inside = outer.extractfile(INSIDE)
            assert inside is not None
            packed = inside.read()
        with tarfile.open(fileobj=io.BytesIO(packed)) as inner:
            return {
                name: (_lines(inner, f"{file}_GroundTruth.txt"), _lines(inner, f"{file}_anonDataRatings.txt"))
                for name, file in FILES.items()
            }
    except (OSError, KeyError, tarfile.TarError, AssertionError) as error:
        raise DataError(
            f"{archive} is not the archive of vaderSentiment 2.5 ({type(error).__name__}); pip download --no-deps "
            "--no-binary :all: vaderSentiment==2.5"
        ) from error


def _lines(archive: tarfile.TarFile, name: str) -> list[str]:
    file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
    assert file is not None
    return file.read().decode("utf-8-sig", errors="replace").splitlines()


def _rated(lines: Sequence[str], ratings: Sequence[str]) -> Iterator[Rated]:
    """Yield every text with its ratings, which lie in another file by the same id."""
    single: dict[str, Counter[int]] = {}
    for line in ratings:
        id, _, rest = line.partition("\t")
        single[id] = Counter(json.loads(rest.rpartition("\t")[2]))
    for line in lines:
        id, _, rest = line.partition("\t")
        mean, _, text = rest.partition("\t")
        if text.strip():
            yield Rated(text.strip(), float(mean), single[id])


def _rows(rated: Sequence[Rated]) -> Iterator[dict[str, object]]:
    for one in rated:
        if abs(one.mean) >= DISTANCE:
            yield {"text": one.text, "label": "positive" if one.mean > 0 else "negative"}


def _pairs(rated: Sequence[Rated]) -> Iterator[dict[str, object]]:
    """Yield neighbours, each text once, where one was clearly rated above the other."""
    for better, worse in zip(rated[::2], rated[1::2], strict=False):
        if better.mean < worse.mean:
            better, worse = worse, better
        margin = better.mean - worse.mean
        if margin >= LEAST_MARGIN and better.text != worse.text:
            yield {
                "chosen": better.text,
                "rejected": worse.text,
                "margin": round(margin, 3),
                "gap": next(words for least, words in GAPS.items() if margin < least),
                "agreement": round(agreement(better.ratings, worse.ratings), 3),
            }


def agreement(better: Counter[int], worse: Counter[int]) -> float:
    """Return how often a rater of the one text rated it above what a rater of the other gave that, of those who differ.

    0.5 where all ratings are alike.
    """
    above = sum(m * n for a, m in better.items() for b, n in worse.items() if a > b)
    below = sum(m * n for a, m in better.items() for b, n in worse.items() if a < b)
    return above / (above + below) if above + below else 0.5


def main(arguments: list[str]) -> int:
    """Build to the folder that is named first, of the archive that is named second."""
    out = Path(arguments[0] if arguments else "rows/sentiment")
    archive = Path(arguments[1] if len(arguments) > 1 else "rows/vaderSentiment-2.5.tar.gz")
    return build_once("vader_sentiment", out, out / f"{[*FILES][-1]}-pairs.jsonl", lambda: build(out, archive))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
