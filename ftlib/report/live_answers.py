"""The page of one look at live answers: drift, how good they were, what was read, and what was done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ftlib.evaluation.measured import Estimate
from ftlib.report.content import Cell, Figure, Page, Row, Section, Table, Tile, Tone, estimates_on_one_scale, texts
from ftlib.report.figures import CHOSEN, SHIFTED, TARGET, canvas, legend_below, plain, saved
from ftlib.retraining.drift import Drift, DriftLimits
from ftlib.retraining.live_quality import WindowQuality
from ftlib.retraining.live_verdict import LiveVerdict
from ftlib.wording import counted, some


def live_answers_page(verdict: LiveVerdict, limits: DriftLimits, level: float, folder: Path) -> Page:
    """Return the page, its plots drawn into the folder. `level` is how likely the rule ever alarms falsely."""
    sections = [*_drift(verdict, limits, folder), *_quality(verdict, level, folder), _read(verdict)]
    return Page(
        title=f"{verdict.model} in production: {verdict.title.lower()}",
        subtitle=f"{verdict.name}@{verdict.alias} (entry {verdict.entry}), looked at {verdict.at}: {verdict.log}.",
        verdict=verdict.line(),
        tiles=[*_tiles(verdict)],
        sections=sections,
    )


def _tiles(verdict: LiveVerdict) -> Iterator[Tile]:
    reading, large = verdict.reading, verdict.drift.large
    yield Tile(
        f"{reading.answers:,}", "answers read", f"{reading.labelled:,} labelled, {reading.thumbs:,} with a thumb"
    )
    compared = f"of {counted(len(verdict.drift.drifts), 'feature')} compared"
    yield Tile(str(len(large)), "drifted", compared, "bad" if large else "")
    judged = [window for window in verdict.quality if window.share is not None and not window.too_few]
    if judged:
        newest = judged[-1]
        note = f"{newest.low:.4f} to {newest.high:.4f} in window {newest.number}"
        yield Tile(f"{newest.share:.4f}", verdict.standard.what, note, "bad" if newest.worse else "")
    yield Tile(
        f"{reading.damages:,}", "damaged", "lines or files that could not be read", "bad" if reading.damages else ""
    )


def _drift(verdict: LiveVerdict, limits: DriftLimits, folder: Path) -> Iterator[Section]:
    """Yield what is asked and answered against what the version was made with."""
    drifts = verdict.drift.drifts
    notes = [Row(texts(*text.split(": ", 1))) for text in verdict.drift.not_compared]
    tables = [Table(["not compared", "why"], notes)] if notes else []
    if drifts:
        rows = [_drift_row(drift) for drift in drifts]
        tables.insert(0, Table(["feature", "PSI", "distance", "", "values that are new or gone"], rows,
                               numeric=frozenset({1, 2})))  # fmt: skip
    yield Section(
        "drift",
        "Drift",
        f"The answers of the last {verdict.window_days:g} days against the rows the version was trained on (what is "
        "asked) and its own answers on the report split (answer, confidence, unknown tokens). Beyond a PSI of "
        f"{limits.psi:g} or a distance of {limits.distance:g} it has drifted; with fewer than {limits.rows:,} on "
        "either side nothing is said.",
        figures=[_drift_figure(drifts, limits, folder)] if drifts else [],
        tables=tables,
    )


def _drift_row(drift: Drift) -> Row:
    changes = [
        f"{name}: {some(values)}" for name, values in (("new", drift.appeared), ("gone", drift.vanished)) if values
    ]
    cells = [
        *texts(drift.feature, f"{drift.psi:.3f}", f"{drift.distance:.3f}"),
        Cell("drifted" if drift.large else "as before", tone="bad" if drift.large else "good"),
        Cell("; ".join(changes)),
    ]
    return Row(cells, "worst" if drift.large else "")


def _drift_figure(drifts: Sequence[Drift], limits: DriftLimits, folder: Path) -> Figure:
    """Draw each feature's two sizes as shares of their limits."""
    with canvas(8.4, 1.3 + 0.55 * len(drifts), 1, 1) as (figure, grid):
        axes = grid[0][0]
        at = range(len(drifts))
        for shift, name, sizes, colour in (
            (-0.19, "PSI", [drift.psi / limits.psi for drift in drifts], TARGET),
            (0.19, "distance", [drift.distance / limits.distance for drift in drifts], SHIFTED),
        ):
            axes.barh([i + shift for i in at], sizes, 0.36, color=colour, label=f"{name} as a share of its limit")
        axes.axvline(1.0, color=CHOSEN, linewidth=1.4, linestyle=(0, (4, 3)), label="limit")
        axes.set_yticks([*at], [plain(drift.feature) for drift in drifts])
        axes.invert_yaxis()
        axes.set_xlim(left=0.0, right=max(1.25, *axes.get_xlim()))
        axes.set_title("drift of each feature", loc="left")
        legend_below(axes)
        return saved(
            figure, folder, "drift", "Each feature's distance from its reference; beyond the dashed line it drifted."
        )


def _quality(verdict: LiveVerdict, level: float, folder: Path) -> Iterator[Section]:
    """Yield how good the answers were, window by window."""
    asked, windows = verdict.standard, verdict.quality
    judged = [window for window in windows if window.judged]
    scale = estimates_on_one_scale(
        [Estimate(value=w.share, low=w.low, high=w.high) if w.share is not None else None for w in windows]
    )
    others = sorted({name for window in windows for name in window.metrics})
    columns = [estimates_on_one_scale([window.metrics.get(name) for window in windows]) for name in others]
    rows = [
        Row(
            [
                *texts(f"{window.number}: {_day(window.since)} to {_day(window.until)}", window.answers, window.judged),
                cell,
                *(column[i] for column in columns),
                Cell(*_judged(window, asked.least)),
            ],
            "worst" if window.worse else "",
        )
        for i, (window, cell) in enumerate(zip(windows, scale, strict=True))
    ]
    table = Table(["window (UTC)", "answers", "known", asked.what, *others, ""], rows, numeric=frozenset({1, 2}))
    yield Section(
        "quality",
        "How good the answers were",
        f"Windows of {verdict.window_days:g} days since the version was put in place. {_sentence(asked.how)}. The "
        "range holds at all numbers of answers at once, and windows share the level: a version which is good enough "
        f"is ever called worse with a probability of at most {level:g}, however often anybody looks. Other metrics "
        "have 95 % bootstrap intervals and decide nothing.",
        figures=[_quality_figure(judged, verdict, folder)] if judged else [],
        tables=[table] if windows else [],
    )


def _judged(window: WindowQuality, least: float | None) -> tuple[str, None, str, Tone]:
    """Return the words, and their tone, of a window's last cell."""
    if window.too_few:
        return "too few", None, "", "muted"
    if window.worse:
        return "worse", None, "", "bad"
    return ("not held against anything", None, "", "muted") if least is None else ("holds", None, "", "good")


def _quality_figure(windows: Sequence[WindowQuality], verdict: LiveVerdict, folder: Path) -> Figure:
    """Draw each window's share with its range, beside what was measured and what is asked for."""
    with canvas(8.4, 3.0, 1, 1) as (figure, grid):
        axes, asked = grid[0][0], verdict.standard
        at = [window.number for window in windows]
        shares = [window.share or 0.0 for window in windows]
        below = [share - window.low for share, window in zip(shares, windows, strict=True)]
        above = [window.high - share for share, window in zip(shares, windows, strict=True)]
        axes.errorbar(at, shares, (below, above), fmt="o", color=TARGET, capsize=4, linewidth=1.6, label="live")
        if asked.published is not None:
            axes.axhline(asked.published, color="#0f9d76", linewidth=1.4, label="measured at publishing")
        if asked.least is not None:
            axes.axhline(asked.least, color=CHOSEN, linewidth=1.4, linestyle=(0, (4, 3)), label="asked for at least")
        axes.set_xlim(min(at) - 0.6, max(at) + 0.6)
        axes.set_xticks(at)
        axes.set_xlabel("window")
        axes.set_title(f"{asked.what} by window", loc="left")
        legend_below(axes)
        return saved(figure, folder, "quality", "The share of each window, with its time-uniform range.")


def _read(verdict: LiveVerdict) -> Section:
    """Return where every record went."""
    reading = verdict.reading
    rows = [
        ("files of answers read", reading.answer_files),
        ("files of labels and thumbs read", reading.label_files),
        ("older files, not read", reading.older_files),
        (f"answers of {verdict.model} in the windows", reading.answers),
        *((f"answers left out: {reason}", count) for reason, count in reading.left_out.items()),
        ("answers with a label, what turned out to be true", reading.labelled),
        ("of these with a label that the version does not have, which judges nothing", reading.strange_labels),
        ("answers without one", reading.answers - reading.labelled),
        ("answers with a thumb", reading.thumbs),
        ("labels and thumbs of no answer in the windows", reading.labels_elsewhere),
        ("labels and thumbs that newer ones replaced", reading.labels_replaced),
    ]
    tables = [Table(["", "number"], [Row(texts(*row)) for row in rows], numeric=frozenset({1}))]
    if reading.damaged:
        damaged = [Row(texts(reason, one.count, one.first)) for reason, one in reading.damaged.items()]
        tables.append(Table(["damaged: why", "number", "the first"], damaged, numeric=frozenset({1})))
    return Section("read", "What was read", "Every record is in one of these lines.", tables=tables)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _day(moment: str) -> str:
    return moment[:16].replace("T", " ")
