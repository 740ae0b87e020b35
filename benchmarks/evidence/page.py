"""docs/evidence.md, written from the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import fill

from benchmarks.evidence.curve import explained, picture
from benchmarks.evidence.row import Row
from benchmarks.evidence.trial import Trial
from benchmarks.evidence.verdict import verdicts
from ftlib.wording import counted, table

PAGE = Path(__file__).parents[2] / "docs" / "evidence.md"

HEAD = """# Evidence

What each technique shows here, on real data that packages hold and on a small machine. Every line is a claim that was
published or that we make, with the arms that are compared on test rows that nothing was tuned on. A difference is the
mean over seeds with the 95 % interval of the paired differences. *Does not show* stands only where the whole interval
is below what was claimed; else *too noisy*. Failed runs are counted.

```bash
make evidence                                    # runs what is missing, appends, and writes this page
python -m benchmarks.evidence reward --seeds 0   # one row, one seed
python -m benchmarks.evidence kto --threads 1    # trained in the run's own process, by one thread
python -m benchmarks.evidence dpo --larger       # with more of its rows: hours instead of minutes
```

Rows are `benchmarks/evidence/rows/*.yaml`, results `benchmarks/evidence/results/`: one file per row and seed, with
machine and versions. Arms are candidates of recipes' runs, or what a script of the row measures (`measure:`); a script
may also return points, and the page shows how well one curve explains them: R2, with its interval over seeds. A seed
that takes longer than an hour has failed; one whose machine failed, as by a server that did not start, is run again."""


def page(rows: Mapping[str, Row], trials: Mapping[str, Sequence[Trial]]) -> str:
    """Return the page in Markdown."""
    parts = [HEAD]
    for group in dict.fromkeys(row.group for row in rows.values()):
        parts.append(f"\n## {group}\n")
        for row in rows.values():
            if row.group == group:
                parts.append(_section(row, trials.get(row.name, ())))
    return "\n".join(parts)


def _shorter(series: str) -> str:
    """Name series in a cell: a line of the page has its width."""
    names = series.split(", ")
    return series if len(names) < 3 else f"{names[0]} to {names[-1]}"


def _section(row: Row, trials: Sequence[Trial]) -> str:
    """Return what stands below one claim."""
    said = [f"**{row.claim}.**", f"{row.data}. Published: {row.published}."]
    lines = [f"### {row.name}\n", *(fill(one, 118) + "\n" for one in said)]
    plain, larger = ([trial for trial in trials if trial.larger == flag] for flag in (False, True))
    lines += [*_compared(row, plain), *_curve(row, plain), _told(plain)] if plain else ["Not run yet.\n"]
    if larger:
        lines += ["With `--larger`:\n", *_compared(row, larger), _told(larger)]
    return "\n".join(lines)


def _compared(row: Row, trials: Sequence[Trial]) -> list[str]:
    """Return the table of a row's comparisons, and of what it states beside."""
    cells = [["metric", "better", "than", "difference", "seeds", ""]]
    for one in verdicts(row, trials):
        width = "" if one.half_width is None else f" ± {one.half_width:.3g}"
        cells.append(
            [
                one.comparison.metric,
                f"{one.comparison.better} {one.better:.4g}",
                f"{one.comparison.than} {one.than:.4g}",
                f"{one.difference:+.3g}{width}",
                str(one.seeds),
                one.word,
            ]
        )
    return [*([table(cells), ""] if len(cells) > 1 else []), *_stated(row, trials)]


def _told(trials: Sequence[Trial]) -> str:
    """Return how many runs there were, how long they took, and which failed."""
    failed = [trial for trial in trials if trial.failed]
    ran = f"{counted(len(trials), 'run')}, {sum(trial.seconds for trial in trials) / len(trials):.0f} s each"
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
        width = "" if one.half_width is None else f" ± {one.half_width:.3g}"
        cells.append(
            [f"{_shorter(one.series)}: {one.how}", str(one.points), f"{one.r2:.3f}{width}", str(one.seeds), one.word]
        )
    return [table(cells), "", f"![{row.fit.y}](images/{picture(row).name})", ""]
