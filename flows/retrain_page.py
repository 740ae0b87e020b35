"""The page of a retraining: what was new, why it trained, challenger against champion, the decision and its rule."""

from collections.abc import Iterator, Sequence

from flows.challenge import Challenge
from flows.rows_page import ledgers, rows_markdown
from flows.run_page import artifact_key, show_markdown
from ftlib.data.datasets import Ledger
from ftlib.evaluation.results import Difference, interval_text, results, text_table
from ftlib.wording import counted, escaped, table
from ftlib.workspace import Workspace, write_durably


def show_retraining(found: Challenge, work: Workspace) -> None:
    """Put the page on the run, where a model's retrainings form a timeline, and into the run's folder."""
    text = markdown(found)
    name = found.recipe.publish.name
    show_markdown(artifact_key("retrain", name), text, f"Retraining of {name}")
    folder = work.root / "runs" / found.recipe.name
    write_durably(folder / "retrain.md", text.encode())


def ledgers_of(found: Challenge) -> dict[str, Ledger]:
    """Return where every row of a retraining went; empty where none was read."""
    return ledgers(found.evidence.raw, found.evidence.prepared) if found.evidence else {}


def markdown(found: Challenge, report: str | None = None) -> str:
    """Return the page's text, with a link to the challenger's report where it has an address."""
    title, reasons, *rest = _parts(found)
    link = [f"[The challenger's report, with its plots]({report})"] if report else []
    return "\n\n".join([title, reasons, *link, *rest]) + "\n"


def _parts(found: Challenge) -> Iterator[str]:
    """Yield the sections of the page in order: the outcome first, then why, then what was compared."""
    yield f"# {found.recipe.publish.name}: {found.title.lower()}"
    yield _list(found.reasons)
    if found.worth and found.worth.reasons != found.reasons:  # a skip's outcome is its reason
        yield f"## {'Why it trained' if found.worth.go else 'Why it did not train'}\n\n{_list(found.worth.reasons)}"
    if found.differences:
        yield (
            "## Challenger against champion\n\nPaired on the same rows; in brackets the confidence interval.\n\n"
            + table(
                [
                    ["evaluation", "metric", "challenger - champion", ""],
                    *([d.evaluation, d.metric, *compared(d)] for d in found.differences),
                ]
            )
        )
    yield "## What is new\n\n" + table(_news(found))
    if found.evidence:
        yield "## Rows\n\n" + rows_markdown(found.evidence.raw, found.evidence.prepared)
        yield "## Measured on the report splits\n\n" + table(
            text_table(
                results(
                    (*found.evidence.final, *found.champion_cells),
                    found.evidence.selection,
                    found.evidence.recipe.evaluations,
                )
            )
        )
        if slices := _slices(found):
            yield (
                "## Slices\n\nThe challenger beside the champion, where their first metric differs most on top.\n\n"
                + table(slices)
            )
    if found.version:
        place = f"version {found.champion.version} was in place" if found.champion else "none was in place"
        yield f"Challenger: {found.version.name}@{found.version.version} in {found.version.registry}; {place}."


def compared(d: Difference) -> list[str]:
    """Return a difference and its verdict; of two that answer alike there is nothing to be undecided about."""
    if d.identical_rows:
        return [f"identical answers on {counted(d.identical_rows, 'row')}", ""]
    return [interval_text(d.estimate), d.verdict]


def _slices(found: Challenge) -> list[list[str]]:
    """Return both models on every slice, by the evaluation's first metric; empty where no format names slices."""
    if found.evidence is None:
        return []
    recipe, chosen = found.evidence.recipe, found.evidence.selection.chosen.name
    ours = {m.evaluation: m.slices for report in found.evidence.final for m in report.measured if m.candidate == chosen}
    theirs = {m.evaluation: m.slices for report in found.champion_cells for m in report.measured}
    rows: list[tuple[float, list[str]]] = []
    for evaluation, slices in ours.items():
        metric = recipe.evaluations[evaluation].metrics[0].name
        for name, facts in slices.items():
            mine = facts.metrics.get(metric)
            before = theirs.get(evaluation, {}).get(name)
            other = before and before.metrics.get(metric)
            values = [estimate.value for estimate in (mine, other) if estimate and estimate.value is not None]
            apart = max(values) - min(values) if len(values) == 2 else 0.0
            cells = [evaluation, name, str(facts.rows), metric, interval_text(mine), interval_text(other)]
            rows.append((apart, cells))
    head = ["evaluation", "slice", "rows", "metric", "challenger", "champion"]
    return [head, *(cells for _, cells in sorted(rows, key=lambda row: -row[0]))] if rows else []


def _news(found: Challenge) -> list[list[str]]:
    rows = [["dataset", "files new", "edited", "gone", "unchanged", "waiting", "fresh rows", "drift"]]
    for name, changes in found.changes.items():
        of = found.news.get(name)
        files = (changes.added, changes.edited, changes.vanished, changes.unchanged, changes.waiting)
        counts = [str(len(group)) for group in files]
        drifts = "; ".join(str(drift) for drift in of.drifts) if of else ""
        rows.append([name, *counts, str(of.fresh_rows) if of else "not read", drifts or "–"])
    return rows


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escaped(line)}" for line in lines)
