"""The page of a search: what was tried, what came of it, which fields mattered, what it cost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ftlib.evaluation.measured import Estimate
from ftlib.evaluation.results import number
from ftlib.report.content import Cell, Figure, Page, Row, Section, Table, Tile, estimates_on_one_scale, texts
from ftlib.report.search_figures import best_so_far, fields
from ftlib.report.sections import results_section
from ftlib.search.importance import FEW, LEAST
from ftlib.search.record import SearchRecord
from ftlib.search.space import written
from ftlib.search.trial import Trial
from ftlib.wording import counted

_STATES = ("stopped", "diverged", "refused", "failed")


def search_page(record: SearchRecord, command: str, folder: Path) -> Page:
    """Return the page, its plots drawn into the folder; `command` runs the recipe with the best values."""
    return Page(
        title=f"{record.recipe}: {counted(len(record.trials), 'trial')}",
        subtitle=f"Compared by {record.metric} on the validation rows, {_direction(record)}.",
        verdict=verdict(record),
        tiles=_tiles(record),
        sections=[
            _best(record, command),
            _fields(record, fields(folder, record)),
            _trials(record, best_so_far(folder, record)),
            results_section(record.results, record.confidence),
        ],
    )


def _direction(record: SearchRecord) -> str:
    return "higher is better" if record.higher_is_better else "lower is better"


def verdict(record: SearchRecord) -> str:
    """Say in a sentence what the search came to."""
    values = ", ".join(f"{path} = {written(value)}" for path, value in record.winner.values.items())
    words = f"Trial {record.best} is the best of {counted(record.count('done'), 'measured trial')}: {values}."
    if record.soup and record.soup.taken:
        of = counted(len(record.soup.trials), "trial")
        words += f" Better still is what a soup of {of} chose: {record.soup.candidate}."
    if record.result is not None:
        words += f" {record.result.line()}"
    return words


def _shown(estimate: Estimate | None) -> str:
    return "–" if estimate is None or estimate.value is None else number(estimate.value)


def _tiles(record: SearchRecord) -> list[Tile]:
    taken = record.soup.value if record.soup and record.soup.taken else record.winner.outcome.value
    three = taken.numbers() if taken else None
    reached = f"{number(three[0])} to {number(three[2])}, on validation rows" if three else ""
    others = ", ".join(f"{record.count(state)} {state}" for state in _STATES if record.count(state))
    made = sum(trial.outcome.work_seconds for trial in record.trials)
    tiles = [
        Tile(_shown(taken), record.metric, reached),
        Tile(f"{record.count('done')}", "trials measured", others or "none was stopped or broke"),
        Tile(f"{record.seconds:,.0f} s", "for all trials", f"{made:,.0f} s of it in stages that were not there yet"),
    ]
    own = next((t for t in record.trials if t.number == 0 and t.measured is not None), None)
    if own and own.number != record.best:
        tiles.insert(1, Tile(_shown(own.outcome.value), "the first trial", "what the search began with"))
    return tiles


def _best(record: SearchRecord, command: str) -> Section:
    rows = [
        Row([Cell(path, code=True), *texts(written(value)), *texts(record.search.space[path].words())])
        for path, value in record.winner.values.items()
    ]
    tables = [Table(["field", "best", "tried"], rows)]
    made = Table(["what makes it"], [Row([Cell(command, code=True)])])
    lead = (
        "The values of the best trial by what was measured on validation rows. The best of many looks better there "
        "than it is: the test rows below, which no trial was measured on, say how good it is."
    )
    return Section("best", "Best values", f"{lead} {_soup_words(record)}".strip(), tables=[*tables, made])


def _soup_words(record: SearchRecord) -> str:
    soup = record.soup
    if soup is None:
        return ""
    if soup.why_not:
        return f"No soup was made: {soup.why_not}."
    how = "better than" if soup.taken else "no better than"
    of = ", ".join(map(str, soup.trials))
    return (
        f"Of the ends of trials {of} the greedy soup chose {soup.candidate}: {record.metric} {_shown(soup.value)} on "
        f"validation rows, {how} the best trial."
    )


def _fields(record: SearchRecord, figure: Figure | None) -> Section:
    """Return the plots of all fields, and how much each mattered."""
    done = record.count("done")
    lead = "Every trial by each of its values. "
    tables: list[Table] = []
    if record.importance:
        lead += (
            "How much mattered which field is the share of the metric's variance over trials that it explains by "
            "itself, as a random forest sees it (fANOVA)."
        )
        if done < FEW:
            lead += (
                f" That rests on {counted(done, 'trial')}, and trials are not drawn evenly: take shares that lie near "
                "each other for equal."
            )
        rows = [Row([Cell(path, code=True), *texts(f"{share:.0%}")]) for path, share in record.importance.items()]
        tables.append(Table(["field", "share"], rows, "what mattered", frozenset({1})))
    elif len(record.search.space) > 1:
        lead += f"Nothing is said of what mattered: that takes {LEAST} measured trials which differ."
    return Section("fields", "What mattered", lead, figures=[figure] if figure else [], tables=tables)


def _trials(record: SearchRecord, figure: Figure) -> Section:
    """Return all trials, and why some were not measured."""
    paths = list(record.search.space)
    cells = estimates_on_one_scale([trial.outcome.value for trial in record.trials])
    rows = [
        Row(
            [
                *texts(trial.number),
                *(Cell(written(trial.values[path])) for path in paths),
                cell,
                _state(trial),
                *texts(f"{trial.outcome.seconds:.0f}"),
            ],
            "chosen" if trial.number == record.best else "",
        )
        for trial, cell in zip(record.trials, cells, strict=True)
    ]
    names = [_last_words(path, paths) for path in paths]
    columns = ["trial", *names, record.metric, "", "seconds"]
    numeric = frozenset({0, *range(1, len(paths) + 1), len(columns) - 1})
    reasons = [Row(texts(t.number, t.outcome.state, t.outcome.reason)) for t in record.trials if t.outcome.reason]
    tables = [Table(columns, rows, "all trials", numeric)]
    if reasons:
        tables.append(Table(["trial", "", "why"], reasons, "not measured", frozenset({0})))
    lead = "Seconds are of a trial's process; what others had made already was not made again."
    return Section("trials", "Trials", lead, figures=[figure], tables=tables)


def _last_words(path: str, paths: list[str]) -> str:
    """Return the end of a path that tells it from the others."""
    words = path.split(".")
    for count in range(1, len(words)):
        end = ".".join(words[-count:])
        if sum(other == end or other.endswith(f".{end}") for other in paths) == 1:
            return end.replace("_", " ")
    return path


def _state(trial: Trial) -> Cell:
    state = trial.outcome.state
    if state == "done":
        return Cell(trial.outcome.candidate, tone="muted")
    return Cell(state, tone="muted" if state == "stopped" else "bad")


def lines_of(record: SearchRecord) -> Iterator[str]:
    """Yield what a terminal shows beside the tables."""
    yield verdict(record)
    if words := _soup_words(record):
        yield words
