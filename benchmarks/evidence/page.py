"""docs/evidence.md, written from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.evidence.curve import Explained, explained, picture
from benchmarks.evidence.row import Row
from benchmarks.evidence.trial import Trial
from benchmarks.evidence.verdict import Verdict, verdicts
from ftlib.wording import counted, table

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"

HEAD = """# Evidence

What each technique shows here, on real data that packages hold and on a small machine. Every line is a claim that was
published or that we make, with the arms that are compared on rows that nothing was tuned on: test rows, but for
`dpo_line` and `lines`, which compare fixed points of a line on validation rows. A difference is the mean over seeds
with the 95 % interval of the paired differences. *Shows*: the whole interval is above what was claimed; *contrary*:
below 0; *not seen*: below what was claimed; *does not show*: below it, with a half-width below the effect that was
published, and an independent implementation agrees; *no difference*: every seed says the same of both; *too noisy*:
none of these; *too few seeds*: fewer than three. Failed runs are counted.

```bash
make evidence                                    # runs what is missing, appends, and writes this page
python -m benchmarks.evidence reward --seeds 0   # one row, one seed
python -m benchmarks.evidence kto --threads 1    # trained in the run's own process, by one thread
python -m benchmarks.evidence dpo --larger       # with more of its rows: longer, at most an hour a seed
```

Rows are `benchmarks/evidence/rows/*.yaml`, results `benchmarks/evidence/results/`: one file per row and seed, with
machine and versions. Arms are candidates of recipes' runs, or what a script of the row measures (`measure:`); a script
may also return points, and the page shows how well one curve explains them: R2, with its interval over seeds. A seed
that takes longer than an hour has failed; one whose machine failed, as by a server that did not start, is run again.
Seconds are of the attempt that ended: stages that an earlier one had done cost it none."""


OVERVIEW = (
    "The first comparison of each claim, in the metric's own unit, and how many of all its comparisons show; sections "
    "below have the others, the data and what was published:"
)


def page(rows: Mapping[str, Row], trials: Mapping[str, Sequence[Trial]]) -> str:
    """Return the page in Markdown."""
    parts = [HEAD, "", fill(OVERVIEW, 118), "", _overview(rows, trials)]
    for group in dict.fromkeys(row.group for row in rows.values()):
        parts.append(f"\n## {group}\n")
        for row in rows.values():
            if row.group == group:
                parts.append(_section(row, trials.get(row.name, ())))
    return "\n".join(parts)


def _overview(rows: Mapping[str, Row], trials: Mapping[str, Sequence[Trial]]) -> str:
    """Return a line a claim."""
    cells = [["claim", "what is compared", "by how much", "seeds", "", "show"]]
    for row in rows.values():
        plain, larger = _by_size(trials.get(row.name, ()))
        cells.append([row.name, *_main(row, plain or larger), _shown(row, plain or larger)])
    return table(cells)


def _by_size(trials: Sequence[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Return the trials of the usual settings, and those of the larger ones."""
    plain, larger = ([trial for trial in trials if trial.larger == flag] for flag in (False, True))
    return plain, larger


def _main(row: Row, trials: Sequence[Trial]) -> list[str]:
    """Return what a row's first comparison, or its curve, comes to."""
    if row.fit is not None and (found := explained(row.fit, trials)):
        one = found[0]
        return [f"R2 of one curve, at least {row.fit.least:g}", _within(f"{one.r2:.3f}", one), str(one.seeds), one.word]
    if not (found := verdicts(row, trials)):
        return ["", "", str(len(trials)), "failed" if trials else "not run yet"]
    one, of = found[0], found[0].comparison
    words = f"{of.metric}: {of.better} against {of.than}{', larger' if trials[0].larger else ''}"
    return [words, _within(f"{one.difference:+.3g}", one), str(one.seeds), one.word]


def _shown(row: Row, trials: Sequence[Trial]) -> str:
    """Return how many of a row's comparisons, and of the curves that its claim is about, show."""
    words = [one.word for one in verdicts(row, trials)]
    if row.fit is not None:
        words += [one.word for one in explained(row.fit, trials)[:1]]
    return f"{words.count('shows')} of {len(words)}" if words else ""


def _within(value: str, found: Verdict | Explained) -> str:
    """Write a number with its interval's half-width."""
    return value if found.half_width is None else f"{value} ± {found.half_width:.3g}"


def _shorter(series: str) -> str:
    """Name series in a cell: a line of the page has its width."""
    names = series.split(", ")
    return series if len(names) < 3 else f"{names[0]} to {names[-1]}"


def _section(row: Row, trials: Sequence[Trial]) -> str:
    """Return what stands below one claim."""
    said = [f"**{row.claim}.**", f"{row.data}. Published: {row.published}."]
    lines = [f"### {row.name}\n", *(fill(one, 118) + "\n" for one in said)]
    plain, larger = _by_size(trials)
    lines += [*_compared(row, plain), *_curve(row, plain), _told(plain)] if plain else ["Not run yet.\n"]
    if larger:
        lines += ["With `--larger`:\n", *_compared(row, larger), _told(larger)]
    return "\n".join(lines)


def _compared(row: Row, trials: Sequence[Trial]) -> list[str]:
    """Return the table of a row's comparisons, and of what it states beside."""
    cells = [["metric", "better", "than", "difference", "seeds", ""]]
    for one in verdicts(row, trials):
        cells.append(
            [
                one.comparison.metric,
                f"{one.comparison.better} {one.better:.4g}",
                f"{one.comparison.than} {one.than:.4g}",
                _within(f"{one.difference:+.3g}", one),
                str(one.seeds),
                one.word,
            ]
        )
    return [*([table(cells), ""] if len(cells) > 1 else []), *_stated(row, trials)]


def _told(trials: Sequence[Trial]) -> str:
    """Return how many runs there were, how long they took, and which failed."""
    failed = [trial for trial in trials if trial.failed]
    seconds = f"{sum(trial.seconds for trial in trials) / len(trials):.0f} s"
    ran = f"{counted(len(trials), 'run')}, {seconds}{' each' * (len(trials) > 1)}"
    lost = f"; {counted(len(failed), 'run')} failed: {failed[0].failed}" if failed else ""
    return f"{ran}{lost}.\n"


def _stated(row: Row, trials: Sequence[Trial]) -> list[str]:
    """Return what is told of arms beside: the mean over seeds, and the lowest and highest."""
    cells = [["arm", "metric", "mean", "lowest", "highest"]]
    for arm, metrics in row.stated.items():
        for metric in metrics:
            values = [trial.arms[arm][metric] for trial in trials if trial.failed is None]
            if values:
                numbers = [sum(values) / len(values), min(values), max(values)]
                cells.append([arm, metric, *(f"{one:.4g}" for one in numbers)])
    return [table(cells), ""] if len(cells) > 1 else []


def _curve(row: Row, trials: Sequence[Trial]) -> list[str]:
    """Return the table and the drawing of a row whose claim is about a curve."""
    if row.fit is None or not (found := explained(row.fit, trials)):
        return []
    cells = [["points", "number", f"R2, at least {row.fit.least:g}", "seeds", ""]]
    for one in found:
        r2 = _within(f"{one.r2:.3f}", one)
        cells.append([f"{_shorter(one.series)}: {one.how}", str(one.points), r2, str(one.seeds), one.word])
    return [table(cells), "", f"![{row.fit.y}](images/{picture(row).name})", ""]
